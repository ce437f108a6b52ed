//! The centres of an iteration, in the form that the assignment reads.

use rayon::prelude::*;

use super::frame::{Frame, Image};
use super::kernel::{self, LANES, Lanes, UNDECIDED};
use super::{Centroids, Changed, reference};
use crate::matrix::{Row, Rows};

/// Centres for kernels, `f32` and transposed so that a feature's coordinates of all clusters of a group lie together,
/// and beside them the centres themselves, for reference arithmetic.
#[derive(Debug, Clone)]
pub struct CentroidTable {
    frame: Frame,
    centroids: Centroids,
    /// ‖c‖².
    squared_norms: Vec<f64>,
    groups: Groups,
}

/// What the kernels read.
#[derive(Debug, Clone)]
struct Groups {
    n_features: usize,
    /// `(n_groups, n_features)`.
    columns: Vec<Lanes>,
    /// `(n_groups)`.
    norms: Vec<Lanes>,
    margin: (f32, f32),
}

/// Buffers for rows that are looked up one by one.
#[derive(Debug)]
pub struct Scratch {
    image: Image,
    scores: Vec<Lanes>,
    candidates: Vec<u32>,
}

impl CentroidTable {
    pub fn new(centroids: Centroids, frame: Frame) -> Self {
        let (k, d) = (centroids.n_clusters(), centroids.n_features());
        let n_groups = k.div_ceil(LANES);
        let groups = Groups {
            n_features: d,
            columns: vec![[0.0; LANES]; n_groups * d],
            norms: vec![[f32::INFINITY; LANES]; n_groups],
            margin: (0.0, 0.0),
        };
        let mut table = Self { frame, centroids, squared_norms: vec![0.0; k], groups };
        let all: Vec<Changed> = (0..k).map(Changed::all_of).collect();
        table.fill(&all);
        table
    }

    /// Takes over what changed in `centroids` since this table was made or updated.
    pub fn update(&mut self, centroids: &Centroids, changed: &[Changed]) {
        for change in changed {
            let (to, from) = (self.centroids.centre_mut(change.cluster), centroids.centre(change.cluster));
            change.for_each_feature(to.len(), |feature| to[feature] = from[feature]);
        }
        self.fill(changed);
    }

    /// Writes the columns and norms of clusters whose centres have changed.
    fn fill(&mut self, changed: &[Changed]) {
        let Self { frame, centroids, squared_norms, groups } = self;
        for change in changed {
            let centre = centroids.centre(change.cluster);
            let mut squared = 0.0;
            change.for_each_feature(centre.len(), |feature| squared += centre[feature] * centre[feature]);
            squared_norms[change.cluster] = squared;
        }
        let by_group = groups.columns.par_chunks_mut(groups.n_features).zip(&mut groups.norms).enumerate();
        by_group.for_each(|(group, (columns, norms))| {
            for change in changed.iter().filter(|change| change.cluster / LANES == group) {
                let (lane, centre) = (change.cluster % LANES, centroids.centre(change.cluster));
                let mut squared = 0.0;
                change.for_each_feature(centre.len(), |feature| {
                    let c = frame.value(feature, centre[feature]);
                    squared += c * c;
                    columns[feature][lane] = c as f32;
                });
                norms[lane] = squared as f32;
            }
        });
        let largest = groups.norms.as_flattened()[..squared_norms.len()].iter().fold(0.0_f32, |max, x| max.max(*x));
        // The norms were rounded to f32, by less than this.
        groups.margin = frame.margin(libm::sqrt(f64::from(largest) * (1.0 + f64::from(f32::EPSILON))));
    }

    pub fn n_clusters(&self) -> usize {
        self.squared_norms.len()
    }

    pub fn centroids(&self) -> &Centroids {
        &self.centroids
    }

    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    pub fn scratch(&self) -> Scratch {
        Scratch {
            image: Image::new(&Rows::new(self.frame.density(), 0), &self.frame),
            scores: vec![],
            candidates: vec![],
        }
    }

    /// The nearest cluster of `row`, ties to the lowest index, and the squared distance to its centre.
    pub fn nearest(&self, row: Row<'_>, scratch: &mut Scratch) -> (usize, f64) {
        scratch.image.clear();
        scratch.image.push(row, &self.frame);
        let mut label = [UNDECIDED];
        let offsets = [0, row.values.len()];
        let rows = scratch.image.of_row(row, &offsets);
        kernel::nearest(rows, self.groups.table(), &mut label, &mut scratch.scores);
        let best = match label[0] {
            UNDECIDED => self.decide(row, rows, &mut scratch.scores, &mut scratch.candidates),
            cluster => cluster as usize,
        };
        (best, self.squared_distance(row, best))
    }

    /// The nearest cluster of every row in `range`, in order.
    pub(super) fn labels(&self, rows: &Rows, image: &Image, range: std::ops::Range<usize>, labels: &mut [u32]) {
        let mut scores = vec![];
        let mut candidates = vec![];
        kernel::nearest(image.range(rows, range.clone()), self.groups.table(), labels, &mut scores);
        for (i, label) in range.zip(labels).filter(|(_, label)| **label == UNDECIDED) {
            let row = rows.row(i);
            let one = image.range(rows, i..i + 1);
            *label = self.decide(row, one, &mut scores, &mut candidates) as u32;
        }
    }

    /// The nearest cluster by reference arithmetic, among those that the kernel's scores leave.
    fn decide(&self, row: Row<'_>, one: kernel::Rows<'_>, scores: &mut Vec<Lanes>, candidates: &mut Vec<u32>) -> usize {
        kernel::candidates(one, self.groups.table(), self.n_clusters(), scores, candidates);
        let scores = candidates.iter().map(|&cluster| {
            let cluster = cluster as usize;
            (cluster, reference::score(row, self.centroids.centre(cluster), self.squared_norms[cluster]))
        });
        let lowest = |best: (usize, f64), next: (usize, f64)| if next.1 < best.1 { next } else { best };
        scores.fold((0, f64::INFINITY), lowest).0
    }

    /// ‖x − c‖² in reference arithmetic.
    pub fn squared_distance(&self, row: Row<'_>, cluster: usize) -> f64 {
        reference::squared_distance(row, self.centroids.centre(cluster), self.squared_norms[cluster])
    }
}

impl Groups {
    fn table(&self) -> kernel::Table<'_> {
        kernel::Table { columns: &self.columns, norms: &self.norms, n_features: self.n_features, margin: self.margin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::kernel::InstructionSet;
    use crate::matrix::Density;

    /// Goal: every instruction set gives the labels of reference arithmetic, or none. Method: each on rows of both
    /// densities, of widths around the sizes that kernels work with, against all scores in reference arithmetic.
    #[test]
    fn every_instruction_set_gives_the_same_labels() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1_u64 << 24) as f64
        };
        for (k, d) in [(1, 1), (15, 3), (16, 7), (17, 33), (50, 64), (100, 5)] {
            for density in [Density::Sparse, Density::Dense] {
                let mut rows = Rows::new(density, d);
                for _ in 0..101 {
                    let row: Vec<f64> = (0..d).map(|_| if next() < 0.4 { next() - 0.5 } else { 0.0 }).collect();
                    rows.push((0..).zip(row)).unwrap();
                }
                let centroids = Centroids::from_rows(d, (0..k).map(|i| rows.row(i)));
                let table = CentroidTable::new(centroids.clone(), Frame::of_centroids(density, &centroids));
                let image = Image::new(&rows, table.frame());
                let expected: Vec<u32> = (0..rows.n_rows()).map(|i| reference_label(&table, rows.row(i))).collect();
                for set in InstructionSet::available() {
                    let mut labels = vec![0; rows.n_rows()];
                    let mut scores = table.groups.table().scores();
                    set.nearest(image.range(&rows, 0..rows.n_rows()), table.groups.table(), &mut labels, &mut scores);
                    for (i, (label, expected)) in labels.iter().zip(&expected).enumerate() {
                        assert!(
                            label == expected || *label == UNDECIDED,
                            "{set:?}, k = {k}, d = {d}, {density:?}, row {i}"
                        );
                    }
                }
                let mut labels = vec![0; rows.n_rows()];
                table.labels(&rows, &image, 0..rows.n_rows(), &mut labels);
                assert_eq!(labels, expected, "k = {k}, d = {d}, {density:?}");
            }
        }
    }

    fn reference_label(table: &CentroidTable, row: Row<'_>) -> u32 {
        let score = |j| reference::score(row, table.centroids.centre(j), table.squared_norms[j]);
        (0..table.n_clusters())
            .fold((0, f64::INFINITY), |best, j| if score(j) < best.1 { (j, score(j)) } else { best })
            .0 as u32
    }
}
