//! The clusters: a bar for each, the largest first.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{BLUE, FAINT, FONT, GREY, INK, RULE, Rows, WIDTH, cut, short};

/// Clusters that fit a picture; of more, the largest are drawn.
const BARS_MAX: usize = 60;

const HEAD: i32 = 110;
const ROW: i32 = 26;
const FOOT: i32 = 30;

/// Where names end and bars begin, and how long the longest is.
const BARS_AT: i32 = 520;
const BAR_LENGTH_MAX: f64 = 520.0;

const NAME_CHARACTERS: usize = 52;

pub(super) fn draw(model: &str, rows: &Rows) -> Result<String, String> {
    let n_drawn = rows.len().min(BARS_MAX);
    let height = HEAD + ROW * n_drawn as i32 + FOOT;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| format!("the clusters cannot be drawn: {e}");
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let put = |text: String, at: (i32, i32), size: i32, color: RGBColor, side: HPos, style: FontStyle| {
            let style = (FONT, size).into_font().style(style).color(&color).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(text, at, style)).map_err(|e| failed(&e))
        };
        let sizes: Vec<f64> = rows.numbers("size")?.into_iter().flatten().collect();
        let shares: Vec<f64> = rows.numbers("share")?.into_iter().flatten().collect();
        let (numbers, labels) = (rows.numbers("cluster")?, rows.texts("label")?);
        let terms = rows.texts("top_terms")?;
        put(format!("The clusters of {model}"), (40, 36), 30, INK, HPos::Left, FontStyle::Bold)?;
        let all = if n_drawn < sizes.len() { format!("the {n_drawn} largest of ") } else { String::new() };
        let n_labelled = labels.iter().flatten().count();
        let about = format!("{all}{} clusters, {} rows; {n_labelled} labelled", sizes.len(), short(sizes.iter().sum()));
        put(about, (40, 76), 20, FAINT, HPos::Left, FontStyle::Normal)?;
        let longest = sizes.first().copied().unwrap_or(1.0).max(f64::MIN_POSITIVE);
        for i in 0..n_drawn {
            let middle = HEAD + ROW * i as i32 + ROW / 2;
            let (name, color, ink, style) = match &labels[i] {
                Some(label) => (label.clone(), BLUE, INK, FontStyle::Bold),
                None => (terms[i].clone().unwrap_or_default(), GREY, FAINT, FontStyle::Normal),
            };
            put(cut(&name, NAME_CHARACTERS), (BARS_AT - 60, middle), 16, ink, HPos::Right, style)?;
            let number = numbers[i].unwrap_or_default();
            put(format!("{number:.0}"), (BARS_AT - 14, middle), 16, FAINT, HPos::Right, FontStyle::Normal)?;
            let end = BARS_AT + (sizes[i] / longest * BAR_LENGTH_MAX).round().max(1.0) as i32;
            let bar = [(BARS_AT, middle - ROW / 2 + 4), (end, middle + ROW / 2 - 4)];
            area.draw(&Rectangle::new(bar, color.filled())).map_err(|e| failed(&e))?;
            let size = format!("{} · {:.1} %", short(sizes[i]), 100.0 * shares[i]);
            put(size, (end + 10, middle), 15, FAINT, HPos::Left, FontStyle::Normal)?;
        }
        let axis = [(BARS_AT, HEAD - 4), (BARS_AT, HEAD + ROW * n_drawn as i32 + 4)];
        area.draw(&PathElement::new(axis, RULE.stroke_width(2))).map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}
