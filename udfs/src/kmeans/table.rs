//! The centres of an iteration, in the form that the assignment reads.

use rayon::prelude::*;

use super::frame::Frame;
use super::kernel::{self, Found, LANES, Lanes, UNDECIDED};
use super::{Centroids, Changed, Image, min_len, reference};
use crate::matrix::{Density, Row, Rows};

/// Centres that moved get a table of their own when that has at most one group for so many of all.
const MOVED_GROUPS_SHARE: usize = 2;

/// Centres for kernels, `f32` and transposed so that a feature's coordinates of all clusters of a group lie together,
/// and beside them the centres themselves, for reference arithmetic.
#[derive(Debug, Clone)]
pub struct CentroidTable {
    frame: Frame,
    centroids: Centroids,
    /// ‖c‖².
    squared_norms: Vec<f64>,
    groups: Groups,
    /// The centres that the last update moved, by themselves; none where they are not few.
    moved: Option<Moved>,
    /// A centre has moved without a trace in the drift that bounds go by.
    has_leapt: bool,
}

/// The lowest score of a row among the centres that moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct MovedScore {
    score: f32,
    /// Of two scores that differ by more, the lower is that of the nearer centre.
    margin: f32,
    /// The square of the distance in the frame that goes with the score, at least.
    pub squared_lower: f64,
}

impl MovedScore {
    /// Whether all centres that moved are farther than one whose score is `own`.
    pub fn is_above(self, own: f32) -> bool {
        self.score > own + self.margin
    }
}

/// Some of the centres.
#[derive(Debug, Clone)]
struct Moved {
    groups: Groups,
    /// Whether each of all clusters is among them.
    is_moved: Vec<bool>,
    /// What was written to `groups`.
    changed: Vec<Changed>,
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
    /// A coordinate that is not zero is zero as `f32`.
    coordinates_vanish: bool,
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
        let clusters = (0..centroids.n_clusters()).into_par_iter();
        let changed: Vec<Changed> = clusters.map(|cluster| all_of(&frame, &centroids, cluster)).collect();
        Self::of_changed(centroids, frame, &changed)
    }

    /// The same where it is known what there is to write.
    pub(super) fn of_changed(centroids: Centroids, frame: Frame, changed: &[Changed]) -> Self {
        let (k, d) = (centroids.n_clusters(), centroids.n_features());
        let groups = Groups::new(k.div_ceil(LANES), d);
        let mut table = Self { frame, centroids, squared_norms: vec![0.0; k], groups, moved: None, has_leapt: false };
        table.fill(changed);
        table
    }

    /// The centres may be written to without being copied; until the next update the table is of no use.
    pub fn let_go(&mut self) {
        self.centroids.let_go();
    }

    /// Takes over what changed in `centroids` since this table was made or updated.
    pub fn update(&mut self, centroids: &Centroids, changed: &[Changed]) {
        self.centroids = centroids.clone();
        self.has_leapt = false;
        self.fill(changed);
        self.set_moved_apart(changed);
    }

    /// Puts `rows` in the place of all centres; there is room for as many as the table was made with.
    pub(super) fn replace<'a>(&mut self, rows: impl IntoIterator<Item = Row<'a>>) {
        (0..self.n_clusters()).for_each(|cluster| self.clear_lane(cluster));
        self.centroids = Centroids::from_rows(self.groups.n_features, rows);
        let k = self.centroids.n_clusters();
        assert!(k <= self.groups.norms.len() * LANES, "{k} centres are more than the table has room for");
        self.squared_norms = vec![0.0; k];
        self.groups.forget();
        self.moved = None;
        self.fill(&(0..k).map(|cluster| all_of(&self.frame, &self.centroids, cluster)).collect::<Vec<_>>());
    }

    /// Takes over that `centroids` have one centre less: the last has taken the place of `removed`. Others that `changed`
    /// may have moved far, and there is no trace of that in the drift that bounds go by.
    pub(super) fn remove_centre(&mut self, removed: usize, centroids: &Centroids, changed: &[Changed]) {
        let last = self.n_clusters() - 1;
        self.wipe_lane(removed);
        if removed != last {
            self.wipe_lane(last);
        }
        self.centroids = centroids.clone();
        self.squared_norms.swap_remove(removed);
        if last.is_multiple_of(LANES) {
            self.groups.columns.truncate(self.groups.columns.len() - centroids.n_features());
            self.groups.norms.pop();
        }
        if removed != last {
            self.fill(&[all_of(&self.frame, &self.centroids, removed)]);
        }
        self.update(centroids, changed);
        self.has_leapt = true;
    }

    /// Makes the coordinates of a cluster zero, whatever they were.
    fn wipe_lane(&mut self, cluster: usize) {
        let columns = &mut self.groups.columns[cluster / LANES * self.groups.n_features..][..self.groups.n_features];
        columns.iter_mut().for_each(|column| column[cluster % LANES] = 0.0);
        self.groups.norms[cluster / LANES][cluster % LANES] = f32::INFINITY;
    }

    /// The same for those that its centre has.
    fn clear_lane(&mut self, cluster: usize) {
        let n_features = self.groups.n_features;
        let columns = &mut self.groups.columns[cluster / LANES * n_features..][..n_features];
        let coordinates = self.centroids.centre(cluster).iter().zip(columns).filter(|(c, _)| **c != 0.0);
        coordinates.for_each(|(_, column)| column[cluster % LANES] = 0.0);
        self.groups.norms[cluster / LANES][cluster % LANES] = f32::INFINITY;
    }

    /// Puts the centres that moved into a small table of their own, where it is worth it.
    fn set_moved_apart(&mut self, changed: &[Changed]) {
        let n_groups = changed.len().div_ceil(LANES);
        if changed.is_empty() || n_groups * MOVED_GROUPS_SHARE > self.groups.norms.len() {
            self.moved = None;
            return;
        }
        let k = self.n_clusters();
        let (frame, centroids) = (&self.frame, &self.centroids);
        let moved = self.moved.get_or_insert_with(|| Moved {
            groups: Groups::new(0, centroids.n_features()),
            is_moved: vec![],
            changed: vec![],
        });
        moved.clear();
        moved.groups.grow(n_groups);
        moved.is_moved = vec![false; k];
        changed.iter().for_each(|change| moved.is_moved[change.cluster] = true);
        moved.groups.margin = self.groups.margin;
        moved.changed = changed.to_vec();
        let by_group = moved.groups.columns.par_chunks_mut(centroids.n_features()).zip(&mut moved.groups.norms);
        let by_group =
            by_group.zip(changed.par_chunks(LANES)).with_min_len(min_len_of(changed, centroids.n_features()));
        by_group.for_each(|((columns, norms), changed)| {
            for (lane, change) in changed.iter().enumerate() {
                write_lane(frame, centroids.centre(change.cluster), change, columns, norms, lane);
            }
        });
    }

    /// Writes the columns and norms of clusters whose centres have changed.
    fn fill(&mut self, changed: &[Changed]) {
        let Self { frame, centroids, squared_norms, groups, .. } = self;
        for change in changed {
            let centre = centroids.centre(change.cluster);
            let mut squared = 0.0;
            change.for_each_feature(centre.len(), |feature| squared += centre[feature] * centre[feature]);
            squared_norms[change.cluster] = squared;
        }
        let by_group = groups.columns.par_chunks_mut(groups.n_features).zip(&mut groups.norms).enumerate();
        let vanish = by_group.with_min_len(min_len_of(changed, groups.n_features)).map(|(group, (columns, norms))| {
            let mut vanishes = false;
            for change in changed.iter().filter(|change| change.cluster / LANES == group) {
                let (lane, centre) = (change.cluster % LANES, centroids.centre(change.cluster));
                vanishes |= write_lane(frame, centre, change, columns, norms, lane);
            }
            vanishes
        });
        groups.coordinates_vanish |= vanish.reduce(|| false, |a, b| a | b);
        let largest = groups.norms.as_flattened()[..squared_norms.len()].iter().fold(0.0_f32, |max, x| max.max(*x));
        // The norms were rounded to f32, by less than this.
        let margin = frame.margin(libm::sqrt(f64::from(largest) * (1.0 + f64::from(f32::EPSILON))));
        // Scores of earlier iterations are compared with those of this one.
        groups.margin = (groups.margin.0.max(margin.0), groups.margin.1.max(margin.1));
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
        let mut found = [Found::default()];
        let offsets = [0, row.values.len()];
        let rows = scratch.image.of_row(row, &offsets);
        kernel::nearest(rows, &[0], self.groups.table(), &mut found, &mut scratch.scores);
        let best = match found[0].label {
            UNDECIDED => self.decide(row, rows, &mut scratch.scores, &mut scratch.candidates),
            cluster => cluster as usize,
        };
        (best, self.squared_distance(row, best))
    }

    /// The squared distances of `row` to the nearest centre and to the next, which is infinite where there is but one.
    pub fn two_nearest_of(&self, row: Row<'_>, scratch: &mut Scratch) -> [f64; 2] {
        let Scratch { image, scores, candidates } = scratch;
        image.clear();
        image.push(row, &self.frame);
        let offsets = [0, row.values.len()];
        self.two_among(row, image.of_row(row, &offsets), scores, candidates)
    }

    fn two_among(
        &self,
        row: Row<'_>,
        one: kernel::Rows<'_>,
        scores: &mut Vec<Lanes>,
        candidates: &mut Vec<u32>,
    ) -> [f64; 2] {
        kernel::candidates::<2>(one, self.groups.table(), self.n_clusters(), scores, candidates);
        let distances = candidates.iter().map(|&cluster| self.squared_distance(row, cluster as usize));
        distances.fold([f64::INFINITY; 2], |[a, b], next| [a.min(next), b.min(a.max(next))])
    }

    /// The nearest cluster of every row in `range`, in order.
    pub(super) fn labels(&self, rows: &Rows, image: &Image, range: std::ops::Range<usize>, labels: &mut [u32]) {
        let all: Vec<u32> = (0..range.len() as u32).collect();
        let (mut scores, mut candidates) = (vec![], vec![]);
        kernel::label(image.range(rows, range.clone()), &all, self.groups.table(), labels, &mut scores);
        for (row, label) in range.zip(labels).filter(|(_, label)| **label == UNDECIDED) {
            let one = image.range(rows, row..row + 1);
            *label = self.decide(rows.row(row), one, &mut scores, &mut candidates) as u32;
        }
    }

    /// The nearest cluster of every row that `selected` names, counted from the start of `range`. Tells `each` by its
    /// place in `selected` whether the row was decided by its scores.
    pub(super) fn find(
        &self,
        rows: &Rows,
        image: &Image,
        range: std::ops::Range<usize>,
        selected: &[u32],
        found: &mut [Found],
        mut each: impl FnMut(usize, bool),
    ) {
        let (mut scores, mut candidates) = (vec![], vec![]);
        kernel::nearest(image.range(rows, range.clone()), selected, self.groups.table(), found, &mut scores);
        for (i, found) in found.iter_mut().enumerate() {
            let is_decided = found.label != UNDECIDED;
            if !is_decided {
                let row = range.start + selected[i] as usize;
                let one = image.range(rows, row..row + 1);
                found.label = self.decide(rows.row(row), one, &mut scores, &mut candidates) as u32;
            }
            each(i, is_decided);
        }
    }

    /// Whether the last update moved few centres, so that rows of others need not be scored against all.
    pub(super) fn has_few_moved(&self) -> bool {
        self.moved.is_some()
    }

    /// Whether the last update moved a centre without a trace in the drift that bounds go by.
    pub(super) fn has_leapt(&self) -> bool {
        self.has_leapt
    }

    /// Whether the last update moved the centre of this cluster.
    pub(super) fn is_moved(&self, cluster: u32) -> bool {
        self.moved.as_ref().is_none_or(|moved| moved.is_moved[cluster as usize])
    }

    /// For every row that `selected` names, the lowest score among the centres that moved, which are few.
    pub(super) fn scores_of_moved(
        &self,
        rows: &Rows,
        image: &Image,
        range: std::ops::Range<usize>,
        selected: &[u32],
    ) -> Vec<MovedScore> {
        let Some(moved) = &self.moved else { return vec![] };
        let mut lowest = vec![0.0; selected.len()];
        let (factor, rest) = moved.groups.margin;
        let rows = image.range(rows, range.clone());
        kernel::lowest_scores(rows, selected, moved.groups.table(), &mut lowest, &mut vec![]);
        let scores = lowest.into_iter().zip(selected).map(|(score, &i)| {
            let row = range.start + i as usize;
            let (_, reach) = image.squared_norm_and_reach(row);
            MovedScore {
                score,
                margin: reach * factor + rest,
                squared_lower: moved.groups.squared_at_least(image, row, score),
            }
        });
        scores.collect()
    }

    /// The squares of the distances in the frame to the nearest centre, at most, and to every other, at least, by the
    /// scores of a row of `image`.
    pub(super) fn squared_bounds(&self, image: &Image, row: usize, scores: [f32; 2]) -> (f64, f64) {
        let (squared_norm, error) = self.groups.norm_and_error(image, row);
        (f64::from(scores[0]) + squared_norm + error, f64::from(scores[1]) + squared_norm - error)
    }

    /// For every row of `range` the square of the distance in the frame to the nearest centre, at least; no number where
    /// nothing is known.
    pub(super) fn squared_distances_at_least(
        &self,
        rows: &Rows,
        image: &Image,
        range: std::ops::Range<usize>,
    ) -> Vec<f64> {
        let all: Vec<u32> = (0..range.len() as u32).collect();
        let mut lowest = vec![0.0; range.len()];
        let rows = image.range(rows, range.clone());
        kernel::lowest_scores(rows, &all, self.groups.table(), &mut lowest, &mut vec![]);
        let at_least = |(row, &score): (usize, &f32)| self.groups.squared_at_least(image, row, score);
        range.zip(&lowest).map(at_least).collect()
    }

    /// The nearest cluster by reference arithmetic, among those that the kernel's scores leave.
    fn decide(&self, row: Row<'_>, one: kernel::Rows<'_>, scores: &mut Vec<Lanes>, candidates: &mut Vec<u32>) -> usize {
        kernel::candidates::<1>(one, self.groups.table(), self.n_clusters(), scores, candidates);
        let score = |&cluster: &u32| {
            let cluster = cluster as usize;
            let centre = self.centroids.centre(cluster);
            let score = match row.density {
                Density::Sparse if self.is_apart(row, cluster) => self.squared_norms[cluster],
                _ => reference::score(row, centre, self.squared_norms[cluster]),
            };
            (cluster, score)
        };
        let scores = candidates.iter().map(score);
        let lowest = |best: (usize, f64), next: (usize, f64)| if next.1 < best.1 { next } else { best };
        scores.fold((0, f64::INFINITY), lowest).0
    }

    /// The squared distances of every row in `range` to the nearest centre and to the next.
    pub(super) fn two_nearest(&self, rows: &Rows, image: &Image, range: std::ops::Range<usize>) -> Vec<[f64; 2]> {
        let (mut scores, mut candidates) = (vec![], vec![]);
        let nearest =
            |row: usize| self.two_among(rows.row(row), image.range(rows, row..row + 1), &mut scores, &mut candidates);
        range.map(nearest).collect()
    }

    /// Whether a sparse row and a centre have no feature in common, so that their product is zero. Most rows that are
    /// too close to call are of this kind: they lie apart from several centres of the same norm. It is read from the
    /// columns, where the coordinates of neighbouring clusters lie together.
    fn is_apart(&self, row: Row<'_>, cluster: usize) -> bool {
        let columns = &self.groups.columns[cluster / LANES * self.groups.n_features..][..self.groups.n_features];
        !self.groups.coordinates_vanish
            && row.indices.iter().all(|&feature| columns[feature as usize][cluster % LANES] == 0.0)
    }

    /// The same of rows that follow each other, from `start`, each to the centre of its label. Dense rows go four at a time,
    /// because the terms of one are added up in their order, each of which waits for the one before.
    pub(super) fn squared_distances(&self, rows: &Rows, start: usize, labels: &[u32], distances: &mut [f64]) {
        let mut done = 0;
        if rows.density() == Density::Dense {
            for (four, distances) in labels.as_chunks::<4>().0.iter().zip(distances.as_chunks_mut::<4>().0) {
                let row = |i: usize| rows.row(start + done + i).values;
                let centre = |i: usize| self.centroids.centre(four[i] as usize);
                *distances = reference::four_squared_distances([0, 1, 2, 3].map(row), [0, 1, 2, 3].map(centre));
                done += 4;
            }
        }
        for (i, label) in labels.iter().enumerate().skip(done) {
            distances[i] = self.squared_distance(rows.row(start + i), *label as usize);
        }
    }

    /// ‖x − c‖² in reference arithmetic.
    pub fn squared_distance(&self, row: Row<'_>, cluster: usize) -> f64 {
        reference::squared_distance(row, self.centroids.centre(cluster), self.squared_norms[cluster])
    }
}

/// What there is to write of a centre where nothing is written yet.
fn all_of(frame: &Frame, centroids: &Centroids, cluster: usize) -> Changed {
    match frame.density() {
        Density::Dense => Changed::all_of(cluster),
        Density::Sparse => Changed::non_zeros_of(cluster, centroids.centre(cluster)),
    }
}

fn min_len_of(changed: &[Changed], n_features: usize) -> usize {
    min_len(changed.iter().map(|change| change.n_values(n_features)).sum())
}

/// Writes one centre; true when a coordinate that is not zero becomes zero.
fn write_lane(
    frame: &Frame,
    centre: &[f64],
    change: &Changed,
    columns: &mut [Lanes],
    norms: &mut Lanes,
    lane: usize,
) -> bool {
    let (mut squared, mut vanishes) = (0.0, false);
    change.for_each_feature(centre.len(), |feature| {
        let c = frame.value(feature, centre[feature]);
        squared += c * c;
        columns[feature][lane] = c as f32;
        vanishes |= c != 0.0 && c as f32 == 0.0;
    });
    norms[lane] = squared as f32;
    vanishes
}

impl Moved {
    /// Makes all columns zero again.
    fn clear(&mut self) {
        let n_features = self.groups.n_features;
        for (i, change) in self.changed.drain(..).enumerate() {
            let columns = &mut self.groups.columns[i / LANES * n_features..][..n_features];
            change.for_each_feature(n_features, |feature| columns[feature][i % LANES] = 0.0);
        }
    }
}

/// Columns that one thread zeroes at once.
const ZEROED_AT_ONCE: usize = 4_096;

impl Groups {
    fn new(n_groups: usize, n_features: usize) -> Self {
        Self {
            n_features,
            // Large, and zeroed on all threads.
            columns: (0..n_groups * n_features)
                .into_par_iter()
                .with_min_len(ZEROED_AT_ONCE)
                .map(|_| [0.0; LANES])
                .collect(),
            norms: vec![[f32::INFINITY; LANES]; n_groups],
            margin: (0.0, 0.0),
            coordinates_vanish: false,
        }
    }

    /// No cluster is left.
    fn forget(&mut self) {
        self.margin = (0.0, 0.0);
        self.coordinates_vanish = false;
    }

    /// As many groups without any cluster. All columns are zero; those of more groups that there were stay.
    fn grow(&mut self, n_groups: usize) {
        let n_columns = self.columns.len().max(n_groups * self.n_features);
        self.columns.resize(n_columns, [0.0; LANES]);
        self.norms.clear();
        self.norms.resize(n_groups, [f32::INFINITY; LANES]);
    }

    /// ‖x‖² of a row in the frame, and what the square of a distance may err by: twice as much as a score may, and the
    /// rounding of the norm.
    fn norm_and_error(&self, image: &Image, row: usize) -> (f64, f64) {
        let (squared_norm, reach) = image.squared_norm_and_reach(row);
        let (factor, rest) = self.margin;
        (squared_norm, f64::from(reach * factor + rest) + squared_norm * f64::from(f32::EPSILON))
    }

    /// The square of the distance in the frame that goes with a score, at least.
    fn squared_at_least(&self, image: &Image, row: usize, score: f32) -> f64 {
        let (squared_norm, error) = self.norm_and_error(image, row);
        f64::from(score) + squared_norm - error
    }

    fn table(&self) -> kernel::Table<'_> {
        kernel::Table { columns: &self.columns, norms: &self.norms, n_features: self.n_features, margin: self.margin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::kernel::InstructionSet;

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
                    let all: Vec<u32> = (0..rows.n_rows() as u32).collect();
                    let mut found = vec![Found::default(); rows.n_rows()];
                    let mut scores = table.groups.table().scores();
                    let rows = image.range(&rows, 0..rows.n_rows());
                    set.nearest(rows, &all, table.groups.table(), &mut found, &mut scores);
                    let mut labels = vec![0; all.len()];
                    set.label(rows, &all, table.groups.table(), &mut labels, &mut scores);
                    for (i, (Found { label, .. }, expected)) in found.iter().zip(&expected).enumerate() {
                        let how = format!("{set:?}, k = {k}, d = {d}, {density:?}, row {i}");
                        assert!(label == expected || *label == UNDECIDED, "{how}");
                        assert_eq!(labels[i], *label, "{how}");
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
