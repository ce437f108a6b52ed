//! The kernels against their oracles: scikit-learn's numbers (`tests/oracles/sklearn_oracle.py` made them) and a
//! naive Lloyd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::kmeans::{
    self, CentroidTable, Centroids, Distinct, Drift, FixedPoint, Frame, Init, Lloyd, LloydParams, Metric, Partial,
    Profile, Prospects, Resident, Spread, in_place,
};
use crate::matrix::{Density, Points, WEIGHT_ONE};
use crate::tfidf::{DocumentFrequency, Norm, TfidfParams, Vectorizer, Vocabulary, count_terms};

pub(crate) fn oracle() -> Value {
    serde_json::from_str(include_str!("../../tests/oracles/sklearn.json")).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub(crate) fn matrix(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn frequency(value: &Value) -> DocumentFrequency {
    value.as_u64().map_or_else(|| DocumentFrequency::Share(value.as_f64().unwrap()), DocumentFrequency::Count)
}

fn params(options: &Value) -> TfidfParams {
    let mut params = TfidfParams::default();
    for (name, value) in options.as_object().unwrap() {
        match name.as_str() {
            "sublinear_tf" => params.sublinear_tf = value.as_bool().unwrap(),
            "smooth_idf" => params.smooth_idf = value.as_bool().unwrap(),
            "use_idf" => params.use_idf = value.as_bool().unwrap(),
            "lowercase" => params.lowercase = value.as_bool().unwrap(),
            "norm" => params.norm = if value.is_null() { Norm::None } else { Norm::L1 },
            "min_df" => params.min_df = frequency(value),
            "max_df" => params.max_df = frequency(value),
            "ngram_range" => {
                params.ngram_range = (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize);
            }
            "token_pattern" => params.token_pattern = Some(value.as_str().unwrap().to_string()),
            other => panic!("unknown option {other}"),
        }
    }
    params
}

/// Goal: TF-IDF equals scikit-learn's within 1e-12, for every option. Method: its vocabulary, idf and rows on the
/// same texts.
#[test]
fn tfidf_equals_scikit_learn() {
    let oracle = oracle();
    let corpus: Vec<&str> = oracle["tfidf"]["corpus"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for case in oracle["tfidf"]["cases"].as_array().unwrap() {
        let params = params(&case["options"]);
        let frequencies = count_terms(&params, corpus.iter().map(|text| (*text, 1))).unwrap();
        let vocabulary = Vocabulary::try_new(&params, corpus.len() as u64, frequencies).unwrap();
        let mut terms: Vec<&str> = vocabulary.terms().iter().map(String::as_str).collect();
        terms.sort_unstable();
        let expected: Vec<&str> = case["terms"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        assert_eq!(terms, expected, "{}", case["options"]);
        for (term, idf) in case["idf"].as_object().unwrap() {
            let ours = vocabulary.idf()[vocabulary.position(term).unwrap() as usize];
            assert!((ours - idf.as_f64().unwrap()).abs() < 1e-12, "{term}: {ours} {idf}");
        }
        let mut vectorizer = Vectorizer::try_new(&params, &vocabulary).unwrap();
        for (text, expected) in corpus.iter().zip(case["rows"].as_array().unwrap()) {
            let row: BTreeMap<&str, f64> =
                vectorizer.row(text).iter().map(|(i, x)| (vocabulary.terms()[*i as usize].as_str(), *x)).collect();
            let expected = expected.as_object().unwrap();
            assert_eq!(row.len(), expected.len(), "{text}: {}", case["options"]);
            for (term, x) in expected {
                assert!((row[term.as_str()] - x.as_f64().unwrap()).abs() < 1e-12, "{text}: {term}");
            }
        }
    }
}

const DENSITIES: [Density; 2] = [Density::Sparse, Density::Dense];

pub(crate) fn points(density: Density, rows: &[Vec<f64>], weights: &[f64]) -> Points {
    let mut points = Points::new(density, rows[0].len());
    for (row, weight) in rows.iter().zip(weights) {
        points.rows.push((0..).zip(row.iter().copied())).unwrap();
        points.weights.push((weight * WEIGHT_ONE as f64) as u64);
    }
    points
}

pub(crate) static GO_ON: AtomicBool = AtomicBool::new(false);

/// Blocks of a fit, as an executor holds them.
pub(crate) struct Fit {
    pub scale: FixedPoint,
    pub spread: Spread,
    pub frame: Frame,
    pub blocks: Vec<Resident>,
}

impl Fit {
    pub fn new(blocks: &[Points]) -> Self {
        let mut profile = Profile::of(&blocks[0]);
        blocks[1..].iter().for_each(|block| profile.merge(&Profile::of(block)));
        let scale = FixedPoint::new(&profile);
        let points: Vec<&Points> = blocks.iter().collect();
        let (mean, frame) = in_place::frame_of(&points, &profile, &scale, &GO_ON).unwrap();
        let resident = |block: &Points| Resident::of_points(Arc::new(block.clone()), &frame);
        let blocks: Vec<Resident> = blocks.iter().map(resident).collect();
        let distinct: Vec<_> = blocks.iter().map(|block| Arc::clone(&block.distinct)).collect();
        let spread = Spread::new(mean, &in_place::squares_of(&distinct, &scale), &scale);
        Self { blocks, scale, spread, frame }
    }

    pub fn prospects(&self) -> Prospects {
        let blocks = self.blocks.iter().map(|block| (block.points.clone(), block.distinct.clone()));
        Prospects::new(blocks.collect(), Metric::Euclidean)
    }

    pub fn seed(&self, k: usize, init: Init, random_state: u64) -> Centroids {
        let params = kmeans::SeedParams { n_clusters: k, init, random_state };
        kmeans::seed(self.prospects(), &params, &self.scale, &self.frame, &GO_ON).unwrap().unwrap()
    }

    pub fn table(&self, centroids: &Centroids) -> CentroidTable {
        CentroidTable::new(centroids.clone(), self.frame.clone())
    }

    fn pass(&mut self, table: &CentroidTable) -> Partial {
        in_place::pass(&mut self.blocks, table, &self.scale, None, &GO_ON).unwrap()
    }

    pub(crate) fn farthest(&self, table: &CentroidTable, n: usize) -> Vec<kmeans::FarPoint> {
        let blocks = in_place::relabelled(&self.blocks, table, &GO_ON).unwrap();
        in_place::farthest_of(&blocks, table, n)
    }

    pub fn run(&mut self, params: LloydParams, init: Centroids) -> Lloyd {
        self.finish(Lloyd::new(params, self.scale.clone(), self.spread.clone(), init))
    }

    /// Iterates to the end of the run.
    pub fn finish(&mut self, mut lloyd: Lloyd) -> Lloyd {
        in_place::iterate(&mut self.blocks, &mut lloyd, self.frame.clone(), |_| {}, &GO_ON).unwrap();
        lloyd
    }
}

/// Goal: from the same centres, labels, centres, inertia and the number of iterations are scikit-learn's, with
/// weights, with clusters that are empty at first, and with numbers that lie far from zero, where only dense rows are
/// exact.
#[test]
fn lloyd_equals_scikit_learn() {
    for (i, case) in oracle()["kmeans"].as_array().unwrap().iter().enumerate() {
        for density in DENSITIES {
            if density == Density::Dense || case["offset"] == 0.0 {
                compare_with_scikit_learn(i, case, density);
            }
        }
    }
}

fn compare_with_scikit_learn(i: usize, case: &Value, density: Density) {
    let rows = matrix(&case["x"]);
    let points = points(density, &rows, &numbers(&case["weights"]));
    let init = Centroids::try_new(rows[0].len(), matrix(&case["init"]).concat()).unwrap();
    let mut fit = Fit::new(&[points]);
    let lloyd =
        fit.run(LloydParams { metric: Metric::Euclidean, max_iter: 300, tol: case["tol"].as_f64().unwrap() }, init);
    assert_eq!(lloyd.history().len() as u64, case["n_iter"].as_u64().unwrap(), "case {i}");
    let table = fit.table(lloyd.centroids());
    let Resident { points, distinct, .. } = &fit.blocks[0];
    let labels = kmeans::assignments(distinct, &table, &GO_ON).unwrap();
    let expected: Vec<usize> = numbers(&case["labels"]).iter().map(|label| *label as usize).collect();
    assert_eq!(labels.iter().map(|found| found.cluster).collect::<Vec<_>>(), expected, "case {i}");
    for (ours, theirs) in lloyd.centroids().values().zip(matrix(&case["centres"]).concat()) {
        let tolerance = 1e-9 + 1e-15 * theirs.abs();
        assert!((ours - theirs).abs() < tolerance, "case {i}: {ours} {theirs}");
    }
    let summary = kmeans::summarize(points, distinct, &table, &fit.scale, |a, b| a < b, &GO_ON).unwrap();
    let inertia: f64 = summary.iter().map(|cluster| fit.scale.inertia_of(cluster.inertia)).sum();
    let expected = case["inertia"].as_f64().unwrap();
    assert!((inertia - expected).abs() < 1e-9 * expected, "case {i}: {inertia} {expected}");
}

/// A random number generator for test data.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Rows of mostly zeros and few distinct values, so that ties are common.
    pub fn points(&mut self, density: Density, n: usize, d: usize) -> Points {
        let mut points = Points::new(density, d);
        for _ in 0..n {
            let row: Vec<f64> = (0..d)
                .map(|_| if self.next().is_multiple_of(4) { (self.next() % 7) as f64 / 3.0 } else { 0.0 })
                .collect();
            points.rows.push((0..).zip(row)).unwrap();
            points.weights.push((self.next() % 5 + 1) * WEIGHT_ONE / 2);
        }
        points
    }
}

fn dense(points: &Points, i: usize) -> Vec<f64> {
    let mut row = vec![0.0; points.rows.n_features()];
    points.rows.row(i).iter().for_each(|(feature, x)| row[feature] = x);
    row
}

/// Lloyd as one would write it on paper, over dense rows, in the reference arithmetic.
pub(crate) fn naive_labels(points: &Points, centroids: &Centroids) -> Vec<usize> {
    (0..points.len())
        .map(|i| {
            let row = dense(points, i);
            let mut best = (0, f64::INFINITY);
            for j in 0..centroids.n_clusters() {
                let (mut norm, mut product, mut difference) = (0.0, 0.0, 0.0);
                for (x, c) in row.iter().zip(centroids.centre(j)) {
                    norm += c * c;
                    product += x * c;
                    difference += (x - c) * (x - c);
                }
                let score = match points.rows.density() {
                    Density::Sparse => norm - 2.0 * product,
                    Density::Dense => difference,
                };
                if score < best.1 {
                    best = (j, score);
                }
            }
            best.0
        })
        .collect()
}

/// The means of labelled rows by exact sums, clusters without weight left out.
fn naive_means(points: &Points, labels: &[usize], scale: &FixedPoint, centroids: &mut [Vec<f64>]) {
    for (cluster, centre) in centroids.iter_mut().enumerate() {
        let (mut weight, mut sums) = (0, vec![0_i128; centre.len()]);
        for i in (0..points.len()).filter(|&i| labels[i] == cluster) {
            weight += points.weights[i];
            for ((feature, x), sum) in dense(points, i).into_iter().enumerate().zip(&mut sums) {
                *sum += i128::from(scale.quantise_value(feature, x)) * i128::from(points.weights[i]);
            }
        }
        if weight > 0 {
            for ((feature, sum), c) in sums.into_iter().enumerate().zip(centre) {
                *c = scale.mean(feature, sum, weight);
            }
        }
    }
}

/// Goal: labels are those of a naive Lloyd in reference arithmetic, bit for bit, ties included, and the centres
/// those of exact sums, through all iterations. Method: both, side by side, on data with many ties.
#[test]
fn lloyd_equals_naive_lloyd() {
    for (seed, density) in (0..20).zip(DENSITIES.into_iter().cycle()) {
        let points = Random(seed).points(density, 300, 9);
        let k = 2 + seed as usize % 11;
        let mut fit = Fit::new(std::slice::from_ref(&points));
        let init = fit.seed(k, Init::KMeansPlusPlus, seed);
        compare_with_naive_lloyd(&format!("seed {seed}"), &points, &mut fit, init, 8);
    }
}

fn compare_with_naive_lloyd(what: &str, points: &Points, fit: &mut Fit, init: Centroids, max_iter: usize) {
    let mut expected: Vec<Vec<f64>> = (0..init.n_clusters()).map(|cluster| init.centre(cluster).to_vec()).collect();
    let mut table = fit.table(&init);
    let params = LloydParams { metric: Metric::Euclidean, max_iter, tol: 0.0 };
    let mut lloyd = Lloyd::new(params, fit.scale.clone(), fit.spread.clone(), init);
    while !lloyd.is_done() {
        let what = format!("{what}, iteration {}", lloyd.history().len() + 1);
        let before = lloyd.centroids().clone();
        let partial = fit.pass(&table);
        let labels = naive_labels(points, &before);
        let ours: Vec<usize> = fit.blocks[0].labels().iter().map(|label| *label as usize).collect();
        assert_eq!(ours, labels, "{what}");
        // Without relocations, which have a test of their own against scikit-learn.
        let stats = lloyd.advance(partial, &[]).clone();
        naive_means(points, &labels, &fit.scale, &mut expected);
        for (cluster, centre) in expected.iter().enumerate() {
            assert_eq!(lloyd.centroids().centre(cluster), centre, "{what}, cluster {cluster}");
        }
        let inertia = naive_inertia(points, &labels, &before);
        // Numbers keep 52 bits below the largest of their feature.
        let largest = (0..points.len()).flat_map(|i| dense(points, i)).fold(0.0, |max: f64, x| max.max(x.abs()));
        let tolerance = 1e-12 * fit.spread.total + 1e-14 * largest * fit.spread.total.sqrt();
        assert!((stats.inertia - inertia).abs() <= tolerance, "{what}: {} {inertia}", stats.inertia);
        table.update(lloyd.centroids(), lloyd.changed());
    }
}

pub(crate) fn naive_inertia(points: &Points, labels: &[usize], centroids: &Centroids) -> f64 {
    let squared = |i: usize| -> f64 {
        dense(points, i).iter().zip(centroids.centre(labels[i])).map(|(x, c)| (x - c) * (x - c)).sum()
    };
    (0..points.len()).map(|i| points.weights[i] as f64 / WEIGHT_ONE as f64 * squared(i)).sum()
}

/// A case for the oracle: rows, weights, and starting centres among the rows.
fn check_case(what: &str, density: Density, rows: &[Vec<f64>], weight: impl Fn(usize) -> f64, centres: &[usize]) {
    let weights: Vec<f64> = (0..rows.len()).map(weight).collect();
    let points = points(density, rows, &weights);
    let init = centres.iter().flat_map(|&i| rows[i].clone()).collect();
    let init = Centroids::try_new(rows[0].len(), init).unwrap();
    compare_with_naive_lloyd(what, &points, &mut Fit::new(std::slice::from_ref(&points)), init, 6);
}

/// Goal: the same on rows that are as odd as they come: equal rows and equal centres, zero rows, one dimension, a
/// hundred thousand dimensions, as many clusters as rows, weights far apart, numbers tiny, huge and far from zero.
#[test]
fn odd_rows_are_labelled_exactly() {
    for density in DENSITIES {
        let mut random = Random(11);
        let mut rows = |n: usize, d: usize, scale: f64, offset: f64| -> Vec<Vec<f64>> {
            let number = |random: &mut Random| (random.next() % 1000) as f64 / 1000.0 * scale + offset;
            (0..n).map(|_| (0..d).map(|_| number(&mut random)).collect()).collect()
        };
        let twice = |rows: Vec<Vec<f64>>| [rows.clone(), rows].concat();
        check_case("equal rows and centres", density, &twice(rows(20, 3, 1.0, 0.0)), |_| 1.0, &[0, 20, 1, 21, 2]);
        let with_zeros = [vec![vec![0.0; 4]; 5], rows(20, 4, 1.0, 0.0)].concat();
        check_case("zero rows", density, &with_zeros, |_| 1.0, &[0, 7, 8]);
        check_case("one dimension", density, &rows(200, 1, 1.0, 0.0), |_| 1.0, &[0, 1, 2, 3, 4, 5, 6]);
        check_case("as many clusters as rows", density, &rows(30, 5, 1.0, 0.0), |_| 1.0, &(0..30).collect::<Vec<_>>());
        check_case("weights far apart", density, &rows(100, 3, 1.0, 0.0), |i| [1.0, 1e6, 0.0][i % 3], &[0, 1, 2, 3]);
        check_case("tiny numbers", density, &rows(100, 3, 1e-200, 0.0), |_| 1.0, &[0, 1, 2, 3]);
        check_case("huge numbers", density, &rows(100, 3, 1e90, 0.0), |_| 1.0, &[0, 1, 2, 3]);
        check_case(
            "one row far away",
            density,
            &[rows(99, 3, 1.0, 0.0), rows(1, 3, 1.0, 1e9)].concat(),
            |_| 1.0,
            &[0, 1, 2],
        );
        if density == Density::Dense {
            check_case("far from zero", density, &rows(100, 3, 1.0, 1e9), |_| 1.0, &[0, 1, 2, 3]);
        }
        let mut wide = vec![vec![0.0; 100_000]; 40];
        for (i, row) in wide.iter_mut().enumerate() {
            (0..50).for_each(|_| row[random.next() as usize % 100_000] = (1 + random.next() % 5) as f64);
            row[i % 3] = 20.0;
        }
        check_case("a hundred thousand dimensions", density, &wide, |_| 1.0, &[0, 1, 2, 3, 4]);
    }
}

/// Goal: bounds skip rows, and change no label. Method: rows around a few centres, passes with bounds beside passes
/// without, through all iterations of several runs.
#[test]
fn bounds_skip_rows_and_change_nothing() {
    for (seed, density) in (0..6).zip(DENSITIES.into_iter().cycle()) {
        let mut random = Random(seed);
        let mut number = |range: u64| (random.next() % 1_000) as f64 / 1_000.0 * range as f64;
        let middles: Vec<Vec<f64>> = (0..12).map(|_| (0..8).map(|_| number(6).floor()).collect()).collect();
        let rows: Vec<Vec<f64>> =
            (0..3_000).map(|i| middles[i % 12].iter().map(|x| x + number(3) - 1.5).collect()).collect();
        let points = points(density, &rows, &vec![1.0; rows.len()]);
        let mut with = Fit::new(std::slice::from_ref(&points));
        let mut without = Fit::new(std::slice::from_ref(&points));
        let init = with.seed(15, Init::Random, seed);
        let mut drift = Drift::new(15, &with.frame);
        let mut table = with.table(&init);
        let params = LloydParams { metric: Metric::Euclidean, max_iter: 40, tol: 0.0 };
        let mut lloyd = Lloyd::new(params, with.scale.clone(), with.spread.clone(), init);
        let mut n_skipped = 0;
        while !lloyd.is_done() {
            let partial = in_place::pass(&mut with.blocks, &table, &with.scale, Some(&drift), &GO_ON).unwrap();
            let expected = without.pass(&table);
            assert_eq!(with.blocks[0].labels(), without.blocks[0].labels(), "seed {seed}, {density:?}");
            assert_eq!(partial.changes, expected.changes, "seed {seed}, {density:?}");
            n_skipped += partial.n_skipped;
            lloyd.advance(partial, &[]);
            drift.add(lloyd.squared_shifts());
            table.update(lloyd.centroids(), lloyd.changed());
        }
        assert!(n_skipped > 3_000, "seed {seed}, {density:?}: {n_skipped} in {} passes", lloyd.history().len());
    }
}

/// Splits points into blocks after turning them around, so that order and grouping are both different.
pub(crate) fn scattered(points: &Points, n_blocks: usize) -> Vec<Points> {
    let mut blocks = vec![Points::new(points.rows.density(), points.rows.n_features()); n_blocks];
    for i in (0..points.len()).rev() {
        let block = &mut blocks[i * 7 % n_blocks];
        let row = points.rows.row(i);
        block.rows.push(row.indices.iter().copied().zip(row.values.iter().copied())).unwrap();
        block.weights.push(points.weights[i]);
    }
    blocks
}

/// Goal: seeding, sums and far rows do not depend on the order of rows, on blocks, or on threads.
#[test]
fn nothing_depends_on_order() {
    for (seed, density) in (0..10).zip(DENSITIES.into_iter().cycle()) {
        let points = Random(seed).points(density, 500, 12);
        let blocks = scattered(&points, 1 + seed as usize % 5);
        let (one, many) = (Fit::new(std::slice::from_ref(&points)), Fit::new(&blocks));
        for init in [Init::KMeansPlusPlus, Init::KMeansParallel, Init::Random] {
            assert_eq!(one.seed(8, init, seed), many.seed(8, init, seed), "seed {seed}");
        }
        let init = many.seed(8, Init::KMeansPlusPlus, seed);
        let params = LloydParams { metric: Metric::Euclidean, max_iter: 5, tol: 0.0 };
        let whole = Fit::new(std::slice::from_ref(&points)).run(params, init.clone());
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let parts = pool.install(|| Fit::new(&blocks).run(params, init.clone()));
            assert_eq!(parts.centroids(), whole.centroids(), "seed {seed}, {threads} threads");
            assert_eq!(parts.history(), whole.history(), "seed {seed}, {threads} threads");
        }
        let table = one.table(whole.centroids());
        assert_eq!(one.farthest(&table, 3), many.farthest(&table, 3), "seed {seed}");
    }
}

/// Goal: starting centres are distinct rows, and too few of them is an error that says how many there are.
#[test]
fn seeds_are_distinct_rows() {
    let points = Random(3).points(Density::Sparse, 60, 3);
    let mut distinct: Vec<Vec<u64>> =
        (0..points.len()).map(|i| dense(&points, i).iter().map(|x| x.to_bits()).collect()).collect();
    distinct.sort();
    distinct.dedup();
    let fit = Fit::new(std::slice::from_ref(&points));
    for init in [Init::KMeansPlusPlus, Init::KMeansParallel, Init::Random] {
        let seeds = fit.seed(distinct.len(), init, 1);
        let mut chosen: Vec<Vec<u64>> =
            (0..distinct.len()).map(|j| seeds.centre(j).iter().map(|x| x.to_bits()).collect()).collect();
        chosen.sort();
        assert_eq!(chosen, distinct);
        let params = kmeans::SeedParams { n_clusters: distinct.len() + 1, init, random_state: 1 };
        let error = kmeans::seed(fit.prospects(), &params, &fit.scale, &fit.frame, &GO_ON).unwrap_err();
        assert!(error.0.contains(&format!("only {} rows differ", distinct.len())), "{error}");
    }
}

/// Goal: candidates of k-means|| are distinct rows, as many as were asked for in each round while there are such, and each
/// weighs what is nearest to it, ties to the first round. Method: row by row, on rows with many equal ones.
#[test]
fn candidates_weigh_what_is_nearest() {
    for (seed, density) in (0..6).zip(DENSITIES.into_iter().cycle()) {
        let points = Random(seed).points(density, 400, 6);
        let fit = Fit::new(&scattered(&points, 3));
        let params = kmeans::SeedParams { n_clusters: 7, init: Init::KMeansParallel, random_state: seed };
        let (mut prospects, mut candidates) = (fit.prospects(), kmeans::Candidates::new(density, 6));
        let (mut centres, mut nearest) = (vec![], vec![(f64::INFINITY, 0); points.len()]);
        for round in 0..4 {
            let drawn = prospects.draw_candidates(&params, round, 6, &GO_ON).unwrap();
            let (table, first) = (fit.table(&candidates.take(drawn, &params).unwrap()), centres.len());
            assert_eq!(table.n_clusters(), if round == 0 { 1 } else { 2 * 7 });
            prospects.approach(&table, first as u32, &GO_ON).unwrap();
            for (i, nearest) in nearest.iter_mut().enumerate() {
                let (candidate, distance) = table.nearest(points.rows.row(i), &mut table.scratch());
                *nearest = if distance < nearest.0 { (distance, first + candidate) } else { *nearest };
            }
            centres.extend((0..table.n_clusters()).map(|j| table.centroids().centre(j).to_vec()));
        }
        let mut expected = vec![0; centres.len()];
        nearest.iter().zip(&points.weights).for_each(|((_, candidate), weight)| expected[*candidate] += weight);
        assert_eq!(prospects.weights_of_candidates(centres.len()), expected, "seed {seed}");
        for (i, centre) in centres.iter().enumerate() {
            assert!(!centres[..i].contains(centre), "seed {seed}");
        }
    }
}

/// Goal: a pass that is told to stop stops.
#[test]
fn passes_can_be_cancelled() {
    let points = Random(1).points(Density::Sparse, 50, 4);
    let mut fit = Fit::new(std::slice::from_ref(&points));
    let table = fit.table(&Centroids::zeros(2, 4));
    let cancelled = AtomicBool::new(true);
    assert!(fit.blocks[0].pass(&table, &fit.scale, None, &cancelled).is_none());
    assert!(kmeans::assignments(&Distinct::new(&Arc::new(points), &fit.frame), &table, &cancelled).is_none());
    let params = kmeans::SeedParams { n_clusters: 2, init: Init::Random, random_state: 0 };
    assert!(kmeans::seed_at_most(fit.prospects(), &params, &fit.scale, &fit.frame, &cancelled).is_none());
}
