//! The numbers of a cluster at the end of a fit, as they travel and add up: as JSON, whose rows are few.

use covey_udfs::kmeans::{ClusterSummary, DistanceSum, Ranked, keep_first};
use serde::{Deserialize, Serialize};

/// A row of the data as an example of its cluster. Rows are ordered by distance, then content, then text, so that the
/// examples are the same however the data is cut into parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleRow {
    /// Infinite for a row without a known term.
    #[serde(with = "covey_udfs::exact")]
    pub squared_distance: f64,
    /// In hexadecimal.
    pub content_hash: String,
    /// In weight units.
    pub weight: u64,
    pub text: String,
}

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryRow {
    pub weight: u64,
    /// Distinct rows.
    pub n_points: u64,
    pub inertia: DistanceSum,
    /// The nearest first.
    pub nearest: Vec<ExampleRow>,
    /// The farthest first.
    pub farthest: Vec<ExampleRow>,
}

impl SummaryRow {
    pub(super) fn add(&mut self, part: ClusterSummary, example: impl Fn(Ranked) -> ExampleRow) {
        let examples = |ranked: Vec<Ranked>| ranked.into_iter().map(&example).collect();
        self.merge(Self {
            weight: part.weight,
            n_points: part.n_points,
            inertia: part.inertia,
            nearest: examples(part.nearest),
            farthest: examples(part.farthest),
        });
    }

    /// Adds the rows of another part.
    pub fn merge(&mut self, other: Self) {
        fn key(row: &ExampleRow, sign: f64) -> (f64, &str, &str) {
            (sign * row.squared_distance, &row.content_hash, &row.text)
        }
        self.weight += other.weight;
        self.n_points += other.n_points;
        self.inertia.merge(other.inertia);
        for row in other.nearest {
            keep_first(&mut self.nearest, row, |a, b| key(a, 1.0) < key(b, 1.0));
        }
        for row in other.farthest {
            keep_first(&mut self.farthest, row, |a, b| key(a, -1.0) < key(b, -1.0));
        }
    }
}
