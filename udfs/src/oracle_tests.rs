//! The kernels against their oracles: scikit-learn's numbers (`tests/oracles/sklearn_oracle.py` made them) and a
//! naive Lloyd.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::kmeans::{self, CentroidTable, Centroids, FixedPoint, Init, Lloyd, LloydParams, Partial, Profile};
use crate::matrix::{Density, Points, WEIGHT_ONE};
use crate::tfidf::{DocumentFrequency, Norm, TfidfParams, Vectorizer, Vocabulary, count_terms};

fn oracle() -> Value {
    serde_json::from_str(include_str!("../../tests/oracles/sklearn.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Vec<Vec<f64>> {
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

fn points(density: Density, rows: &[Vec<f64>], weights: &[f64]) -> Points {
    let mut points = Points::new(density, rows[0].len());
    for (row, weight) in rows.iter().zip(weights) {
        points.rows.push((0..).zip(row.iter().copied())).unwrap();
        points.weights.push((weight * WEIGHT_ONE as f64) as u64);
    }
    points
}

fn mean_variance(rows: &[Vec<f64>]) -> f64 {
    let (n, d) = (rows.len() as f64, rows[0].len());
    let variance = |j: usize| {
        let mean = rows.iter().map(|row| row[j]).sum::<f64>() / n;
        rows.iter().map(|row| (row[j] - mean).powi(2)).sum::<f64>() / n
    };
    (0..d).map(variance).sum::<f64>() / d as f64
}

fn run(points: &Points, params: LloydParams, init: Centroids) -> Lloyd {
    let mut lloyd = Lloyd::new(params, FixedPoint::new(&Profile::of(points)), init);
    while !lloyd.is_done() {
        let table = CentroidTable::new(lloyd.centroids());
        let partial = kmeans::assign(points, &table, lloyd.scale(), &AtomicBool::new(false)).unwrap();
        let far = kmeans::farthest(points, &table, partial.empty_clusters().len(), &AtomicBool::new(false)).unwrap();
        lloyd.advance(partial, &far);
    }
    lloyd
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
    let squared_shift_min = case["tol"].as_f64().unwrap() * mean_variance(&rows);
    let lloyd = run(&points, LloydParams { max_iter: 300, squared_shift_min }, init);
    assert_eq!(lloyd.history().len() as u64, case["n_iter"].as_u64().unwrap(), "case {i}");
    let table = CentroidTable::new(lloyd.centroids());
    let labels = kmeans::labels(&points, &table, &AtomicBool::new(false)).unwrap();
    let expected: Vec<usize> = numbers(&case["labels"]).iter().map(|label| *label as usize).collect();
    assert_eq!(labels.iter().map(|found| found.cluster).collect::<Vec<_>>(), expected, "case {i}");
    for (ours, theirs) in lloyd.centroids().values().iter().zip(matrix(&case["centres"]).concat()) {
        let tolerance = 1e-9 + 1e-15 * theirs.abs();
        assert!((ours - theirs).abs() < tolerance, "case {i}: {ours} {theirs}");
    }
    let summary = kmeans::summarize(&points, &table, lloyd.scale(), |a, b| a < b, &AtomicBool::new(false)).unwrap();
    let inertia = lloyd.scale().inertia(summary.iter().map(|cluster| cluster.inertia).sum());
    let expected = case["inertia"].as_f64().unwrap();
    assert!((inertia - expected).abs() < 1e-9 * expected, "case {i}: {inertia} {expected}");
}

/// A random number generator for test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Rows of mostly zeros and few distinct values, so that ties are common.
    fn points(&mut self, density: Density, n: usize, d: usize) -> Points {
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
fn naive_labels(points: &Points, centroids: &Centroids) -> Vec<usize> {
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

/// Goal: labels are those of a naive Lloyd in reference arithmetic, bit for bit, ties included, and the centres
/// those of exact sums, through all iterations. Method: both, side by side, on data with many ties.
#[test]
fn lloyd_equals_naive_lloyd() {
    for (seed, density) in (0..20).zip(DENSITIES.into_iter().cycle()) {
        let points = Random(seed).points(density, 300, 9);
        let scale = FixedPoint::new(&Profile::of(&points));
        let k = 2 + seed as usize % 11;
        let mut centroids =
            kmeans::seed(&[&points], k, Init::KMeansPlusPlus, &scale, seed, &AtomicBool::new(false)).unwrap().unwrap();
        for iteration in 0..8 {
            let table = CentroidTable::new(&centroids);
            let labels: Vec<usize> = kmeans::labels(&points, &table, &AtomicBool::new(false))
                .unwrap()
                .iter()
                .map(|found| found.cluster)
                .collect();
            assert_eq!(labels, naive_labels(&points, &centroids), "seed {seed}, iteration {iteration}");
            let mut exact = Partial::zeros(k, 9);
            for (i, &label) in labels.iter().enumerate() {
                let distance = table.squared_distance(points.rows.row(i), label);
                exact.add(&scale, points.rows.row(i), points.weights[i], label, distance);
            }
            let partial = kmeans::assign(&points, &table, &scale, &AtomicBool::new(false)).unwrap();
            assert_eq!(partial, exact, "seed {seed}, iteration {iteration}");
            centroids = partial.means(&scale, &centroids);
        }
    }
}

/// Splits points into blocks after turning them around, so that order and grouping are both different.
fn scattered(points: &Points, n_blocks: usize) -> Vec<Points> {
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
        let scale = FixedPoint::new(&Profile::of(&points));
        let parts: Vec<&Points> = blocks.iter().collect();
        for init in [Init::KMeansPlusPlus, Init::Random] {
            let one = kmeans::seed(&[&points], 8, init, &scale, seed, &AtomicBool::new(false)).unwrap();
            assert_eq!(
                one,
                kmeans::seed(&parts, 8, init, &scale, seed, &AtomicBool::new(false)).unwrap(),
                "seed {seed}"
            );
        }
        let centroids =
            kmeans::seed(&parts, 8, Init::KMeansPlusPlus, &scale, seed, &AtomicBool::new(false)).unwrap().unwrap();
        let table = CentroidTable::new(&centroids);
        let whole = kmeans::assign(&points, &table, &scale, &AtomicBool::new(false)).unwrap();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut sum = Partial::zeros(8, 12);
            for block in &blocks {
                sum.merge(&pool.install(|| kmeans::assign(block, &table, &scale, &AtomicBool::new(false))).unwrap());
            }
            assert_eq!(sum, whole, "seed {seed}, {threads} threads");
        }
        let mut far: Vec<_> = blocks
            .iter()
            .flat_map(|block| kmeans::farthest(block, &table, 3, &AtomicBool::new(false)).unwrap())
            .collect();
        kmeans::FarPoint::sort(&mut far);
        far.truncate(3);
        assert_eq!(far, kmeans::farthest(&points, &table, 3, &AtomicBool::new(false)).unwrap(), "seed {seed}");
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
    let scale = FixedPoint::new(&Profile::of(&points));
    for init in [Init::KMeansPlusPlus, Init::Random] {
        let seeds =
            kmeans::seed(&[&points], distinct.len(), init, &scale, 1, &AtomicBool::new(false)).unwrap().unwrap();
        let mut chosen: Vec<Vec<u64>> =
            (0..distinct.len()).map(|j| seeds.centre(j).iter().map(|x| x.to_bits()).collect()).collect();
        chosen.sort();
        assert_eq!(chosen, distinct);
        let error = kmeans::seed(&[&points], distinct.len() + 1, init, &scale, 1, &AtomicBool::new(false)).unwrap_err();
        assert!(error.0.contains(&format!("only {} distinct rows", distinct.len())), "{error}");
    }
}

/// Goal: a pass that is told to stop stops.
#[test]
fn passes_can_be_cancelled() {
    let points = Random(1).points(Density::Sparse, 50, 4);
    let table = CentroidTable::new(&Centroids::zeros(2, 4));
    let scale = FixedPoint::new(&Profile::of(&points));
    let cancelled = AtomicBool::new(true);
    assert!(kmeans::assign(&points, &table, &scale, &cancelled).is_none());
    assert!(kmeans::labels(&points, &table, &cancelled).is_none());
    assert!(kmeans::seed(&[&points], 2, Init::Random, &scale, 0, &cancelled).unwrap().is_none());
}
