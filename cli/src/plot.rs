//! `covey plot`: what a model knows about itself, as pictures for a slide.
//!
//! A picture is drawn once, as SVG; PNG is made from that with a font that is built in, so that it looks the same on
//! every machine.

mod clusters;
mod elbow;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use plotters::style::RGBColor;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::client::Answer;
use crate::run::{Failure, Session};

/// PNG has this many pixels for each unit of the drawing.
const PNG_SCALE: f32 = 2.0;

/// Width of a drawing.
const WIDTH: u32 = 1_200;

/// The family that drawings name; what is built in comes first where PNG is made.
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0x6b, 0x76, 0x85);
const RULE: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const GREEN: RGBColor = RGBColor(0x2a, 0x8f, 0x5c);
const ORANGE: RGBColor = RGBColor(0xc8, 0x6a, 0x1a);
const GREY: RGBColor = RGBColor(0xa9, 0xb4, 0xc2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// Inertia, silhouette and Davies-Bouldin index for each number of clusters, and the one that was chosen.
    Elbow,
    /// The clusters by size, with their labels or top terms.
    Clusters,
}

impl Picture {
    fn name(self) -> &'static str {
        match self {
            Self::Elbow => "elbow",
            Self::Clusters => "clusters",
        }
    }

    fn query(self, model: &str) -> String {
        let model = model.replace('\'', "''");
        match self {
            Self::Elbow => format!("SELECT * FROM model_elbow('{model}') ORDER BY clusters"),
            Self::Clusters => format!("SELECT * FROM model_clusters('{model}') ORDER BY size DESC, cluster"),
        }
    }

    fn draw(self, model: &str, rows: &Rows) -> Result<String, String> {
        match self {
            Self::Elbow => elbow::draw(model, rows),
            Self::Clusters => clusters::draw(model, rows),
        }
    }
}

/// Writes the picture as SVG and as PNG, and says where. `out` is a path without its extension.
pub async fn plot(session: &Session, picture: Picture, model: &str, out: Option<&Path>) -> Result<(), Failure> {
    let rows = Rows::new(session.query(&picture.query(model)).await?)?;
    let svg = picture.draw(model, &rows)?;
    let png = png_of(&svg)?;
    // Who names one of the two files means both.
    let has_extension = |out: &Path| out.extension().is_some_and(|extension| extension == "svg" || extension == "png");
    let base = match out {
        Some(out) if has_extension(out) => out.with_extension(""),
        Some(out) => out.to_path_buf(),
        None => PathBuf::from(format!("{model}-{}", picture.name())),
    };
    for (extension, bytes) in [("svg", svg.as_bytes()), ("png", &png)] {
        let mut path = base.clone().into_os_string();
        path.push(format!(".{extension}"));
        let path = PathBuf::from(path);
        std::fs::write(&path, bytes).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn png_of(svg: &str) -> Result<Vec<u8>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the drawing cannot be made a PNG: {e}");
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| failed(&e))?;
    let size = tree.size().to_int_size().scale_by(PNG_SCALE).ok_or_else(|| failed(&"it has no size"))?;
    let mut pixels = Pixmap::new(size.width(), size.height()).ok_or_else(|| failed(&"it is too large"))?;
    resvg::render(&tree, Transform::from_scale(PNG_SCALE, PNG_SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(&e))
}

/// The rows of an answer, by name of column.
struct Rows(RecordBatch);

impl Rows {
    fn new(answer: Answer) -> Result<Self, String> {
        concat_batches(&answer.schema, &answer.batches).map(Self).map_err(|e| e.to_string())
    }

    fn len(&self) -> usize {
        self.0.num_rows()
    }

    fn numbers(&self, name: &str) -> Result<Vec<Option<f64>>, String> {
        let column = self.column(name, &DataType::Float64)?;
        Ok(column.as_primitive::<Float64Type>().iter().collect())
    }

    fn texts(&self, name: &str) -> Result<Vec<Option<String>>, String> {
        let column = self.column(name, &DataType::Utf8)?;
        Ok(column.as_string::<i32>().iter().map(|text| text.map(String::from)).collect())
    }

    fn column(&self, name: &str, data_type: &DataType) -> Result<Arc<dyn Array>, String> {
        let column = self.0.column_by_name(name).ok_or_else(|| format!("the scheduler gives no column {name}"))?;
        cast(column, data_type).map_err(|e| e.to_string())
    }
}

/// A number as people say it: 999, 12.3k, 4.56M, 7.89e20.
fn short(number: f64) -> String {
    /// Beyond this there is no letter that people know.
    const POWERS_FROM: f64 = 1e15;
    let magnitude = number.abs();
    if magnitude >= POWERS_FROM {
        return format!("{number:.2e}");
    }
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (value, unit) = match units.iter().find(|(size, _)| magnitude >= *size) {
        Some((size, unit)) => (number / size, *unit),
        None => (number, ""),
    };
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// At most `n` characters of a text.
fn cut(text: &str, n: usize) -> String {
    // Pictures have no control characters.
    let text = &text.replace(char::is_control, " ");
    if text.chars().count() <= n {
        return text.to_string();
    }
    let kept: String = text.chars().take(n.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (0.125, "0.12"), (7.0, "7"), (999.0, "999"), (12_345.0, "12.3k"), (4_560_000.0, "4.56M")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
        assert_eq!(cut("kworker events", 8), "kworker…");
    }
}
