//! The elbow: three curves over the number of clusters, one below the other.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{BLUE, FAINT, FONT, GREEN, INK, ORANGE, RULE, Rows, WIDTH, short};

const HEIGHT: u32 = 860;
const TITLE_HEIGHT: u32 = 96;
const INERTIA_HEIGHT: u32 = 420;
const SMALL_HEIGHT: u32 = 160;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One of the curves.
struct Curve<'a> {
    name: &'a str,
    values: &'a [Option<f64>],
    color: RGBColor,
    with_clusters: bool,
}

pub(super) fn draw(model: &str, rows: &Rows) -> Result<String, String> {
    let clusters: Vec<f64> = rows.numbers("clusters")?.into_iter().flatten().collect();
    let chosen_by = rows.texts("chosen_by")?;
    let chosen = clusters.iter().zip(&chosen_by).find_map(|(k, by)| Some((*k, by.as_deref()?)));
    let (inertia, silhouette, davies_bouldin) =
        (rows.numbers("inertia")?, rows.numbers("silhouette")?, rows.numbers("davies_bouldin")?);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| format!("the elbow cannot be drawn: {e}");
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let (title, rest) = area.split_vertically(TITLE_HEIGHT);
        let (upper, rest) = rest.split_vertically(INERTIA_HEIGHT);
        let (middle, lower) = rest.split_vertically(SMALL_HEIGHT);
        head(&title, model, chosen).map_err(|e| failed(&e))?;
        let curves = [
            (upper, Curve { name: "inertia", values: &inertia, color: BLUE, with_clusters: false }),
            (middle, Curve { name: "silhouette", values: &silhouette, color: GREEN, with_clusters: false }),
            (lower, Curve { name: "Davies-Bouldin", values: &davies_bouldin, color: ORANGE, with_clusters: true }),
        ];
        for (area, curve) in curves {
            panel(&area, &clusters, &curve, chosen.map(|(k, _)| k)).map_err(|e| failed(&e))?;
        }
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn head<'a>(area: &Area<'a>, model: &str, chosen: Option<(f64, &str)>) -> Drawn<'a> {
    let title = format!("How many clusters: {model}");
    area.draw(&Text::new(title, (40, 22), (FONT, 30).into_font().style(FontStyle::Bold).color(&INK)))?;
    let answer = match chosen {
        Some((k, "knee")) => format!("k = {k}: the curve of inertia has its knee there"),
        Some((k, by)) => format!("k = {k} by {by}"),
        None => String::new(),
    };
    area.draw(&Text::new(answer, (40, 62), (FONT, 20).into_font().color(&FAINT)))
}

fn panel<'a>(area: &Area<'a>, clusters: &[f64], curve: &Curve<'_>, chosen: Option<f64>) -> Drawn<'a> {
    let points: Vec<(i32, f64)> =
        clusters.iter().zip(curve.values).filter_map(|(k, value)| Some((*k as i32, (*value)?))).collect();
    let chosen = chosen.map(|k| k as i32);
    let (first, last) = (clusters.first().map_or(1, |k| *k as i32), clusters.last().map_or(2, |k| *k as i32));
    let (low, high) = range_of(points.iter().map(|(_, y)| *y));
    let margin = (high - low) * 0.08;
    let mut chart = ChartBuilder::on(area)
        .margin_left(40)
        .margin_right(40)
        .margin_top(12)
        .margin_bottom(6)
        .y_label_area_size(84)
        .x_label_area_size(if curve.with_clusters { 54 } else { 8 })
        .build_cartesian_2d(first..last.max(first + 1), low - margin..high + margin)?;
    let number = |y: &f64| short(*y);
    let count = |k: &i32| k.to_string();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(RULE)
        .light_line_style(TRANSPARENT)
        .axis_style(RULE)
        .label_style((FONT, 16).into_font().color(&FAINT))
        .y_labels(if curve.with_clusters { 4 } else { 6 })
        .x_labels(if curve.with_clusters { 11 } else { 0 })
        .y_label_formatter(&number)
        .x_label_formatter(&count)
        .y_desc(curve.name)
        .x_desc(if curve.with_clusters { "clusters" } else { "" })
        .axis_desc_style((FONT, 18).into_font().color(&INK))
        .draw()?;
    if let Some(k) = chosen {
        let line = [(k, low - margin), (k, high + margin)];
        chart.draw_series(DashedLineSeries::new(line, 6, 5, FAINT.stroke_width(1)))?;
    }
    chart.draw_series(LineSeries::new(points.iter().copied(), curve.color.stroke_width(3)))?;
    let at = points.iter().filter(|(k, _)| chosen == Some(*k)).copied();
    chart.draw_series(at.clone().map(|point| Circle::new(point, 6, curve.color.filled())))?;
    let style = |side, above| (FONT, 17).into_font().color(&INK).pos(Pos::new(side, above));
    let start = points.first().map_or(0.0, |(_, y)| *y);
    let rises = |k: i32, y: f64| points.iter().find(|(x, _)| *x > k).is_some_and(|(_, next)| *next > y);
    chart.draw_series(at.map(|(k, y)| {
        // To the left where there is no room to the right, and on that side of the curve to which it does not go, if no
        // numbers of the axis are there.
        let is_left = f64::from(k - first) > 0.8 * f64::from(last - first);
        let (side, away) = if is_left { (HPos::Right, -10) } else { (HPos::Left, 10) };
        let is_below = !curve.with_clusters && if is_left { start > y } else { rises(k, y) };
        let (above, up) = if is_below { (VPos::Top, 8) } else { (VPos::Bottom, -8) };
        EmptyElement::at((k, y)) + Text::new(format!("k = {k}: {}", short(y)), (away, up), style(side, above))
    }))?;
    Ok(())
}

/// The least and the largest value, or a range around them where they are as good as one: axes need some length.
fn range_of(values: impl Iterator<Item = f64>) -> (f64, f64) {
    const LENGTH_MIN: f64 = 1e-9;
    let finite = values.filter(|y| y.is_finite());
    let range = finite.fold(None, |range: Option<(f64, f64)>, y| match range {
        Some((low, high)) => Some((low.min(y), high.max(y))),
        None => Some((y, y)),
    });
    let (low, high) = range.unwrap_or((0.0, 1.0));
    let length = LENGTH_MIN * high.abs().max(low.abs()).max(LENGTH_MIN);
    if high - low > length { (low, high) } else { (low - 0.5 * low.abs() - 0.5, high + 0.5 * high.abs() + 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every axis has some length, so that its ticks come to an end.
    #[test]
    fn axes_have_some_length() {
        for values in
            [vec![], vec![0.0], vec![0.0; 5], vec![1e-337, 0.0], vec![7.0, 7.0], vec![1e99, 2e99], vec![f64::NAN]]
        {
            let (low, high) = range_of(values.iter().copied());
            assert!(low.is_finite() && high.is_finite() && high - low > 1e-18, "{values:?}: {low} {high}");
        }
        assert_eq!(range_of([3.0, 1.0].into_iter()), (1.0, 3.0));
    }
}
