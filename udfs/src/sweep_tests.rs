//! Sweeps over numbers of clusters against their definition: what each step gives is a solution of Lloyd's from some
//! centres, measured as scikit-learn measures it.

use crate::kmeans::{
    self, Branch, Init, Iterating, Lloyd, LloydParams, Metric, Prospects, Sample, Sweep, SweepStep, first_rise,
    in_place, start_of,
};
use crate::matrix::{Density, Points, WEIGHT_ONE, to_unit_length};
use crate::oracle_tests::{Fit, GO_ON, Random, matrix, naive_inertia, naive_labels, oracle, points, scattered};

const TO_THE_END: LloydParams = LloydParams { metric: Metric::Euclidean, max_iter: 300, tol: 0.0 };

fn sweep(
    fit: &mut Fit,
    (k_min, k_max, k_batch): (usize, usize, usize),
    n_sample: usize,
    random_state: u64,
) -> Vec<SweepStep> {
    let (n, init) = (start_of(k_max), Init::KMeansPlusPlus);
    let params = kmeans::SeedParams { n_clusters: n, init, random_state };
    let init = kmeans::seed_at_most(fit.prospects(), &params, &fit.scale, &fit.frame, &GO_ON).unwrap();
    let lloyd = Lloyd::new(TO_THE_END, fit.scale.clone(), fit.spread.clone(), init);
    let drawn = fit.blocks.iter().flat_map(|block| Sample::draw(&block.points, n_sample, random_state)).collect();
    let sample = Sample::new(drawn, n_sample, &fit.frame, fit.scale.n_features());
    let sweep = Sweep::try_new(lloyd, k_min, k_max, k_batch).unwrap();
    in_place::sweep(&mut fit.blocks, sweep, &sample, fit.frame.clone(), |_| {}, &GO_ON).unwrap().0
}

/// Goal: each step of a sweep is a fixed point of Lloyd's, its inertia is that of its centres, and none is above the
/// one before, with bounds at work or not, one after the other or several side by side. Method: small data with many
/// ties, where bounds are rarely on, and rows around a few middles, where they are; labels by the naive way, and one more
/// iteration that must move nothing.
#[test]
fn steps_of_a_sweep_are_solutions() {
    for (seed, density) in (0..8).zip([Density::Sparse, Density::Dense].into_iter().cycle()) {
        let all = if seed < 4 { Random(seed).points(density, 200, 7) } else { around_middles(seed, density) };
        let mut fit = Fit::new(std::slice::from_ref(&all));
        let steps = sweep(&mut fit, (1, 24, if seed % 4 < 2 { 1 } else { 3 }), 2_048, seed);
        assert_eq!(first_rise(&steps), None, "seed {seed}");
        let ks: Vec<usize> = steps.iter().map(|step| step.point.n_clusters).collect();
        assert_eq!(ks, (1..=24).collect::<Vec<_>>(), "seed {seed}");
        for step in steps {
            let (k, centroids) = (step.point.n_clusters, step.centroids());
            let expected = naive_inertia(&all, &naive_labels(&all, &centroids), &centroids);
            let error = (step.point.inertia - expected).abs();
            assert!(error <= 1e-11 * fit.spread.total, "seed {seed}, k {k}: {} {expected}", step.point.inertia);
            let again = Fit::new(std::slice::from_ref(&all))
                .run(LloydParams { metric: Metric::Euclidean, max_iter: 1, tol: 0.0 }, centroids.clone());
            assert_eq!(again.centroids(), &centroids, "seed {seed}, k {k}");
        }
    }
}

fn around_middles(seed: u64, density: Density) -> Points {
    let mut random = Random(seed);
    let mut number = |range: u64| (random.next() % 1_000) as f64 / 1_000.0 * range as f64;
    let middles: Vec<Vec<f64>> = (0..12).map(|_| (0..6).map(|_| number(9).floor()).collect()).collect();
    let rows: Vec<Vec<f64>> =
        (0..1_200).map(|i| middles[i % 12].iter().map(|x| x + number(2) - 1.0).collect()).collect();
    points(density, &rows, &vec![1.0; rows.len()])
}

/// Goal: a sweep does not depend on the order of rows, on blocks, or on threads, the sample of its silhouettes included.
#[test]
fn sweeps_do_not_depend_on_order() {
    for (seed, density) in (0..6).zip([Density::Sparse, Density::Dense].into_iter().cycle()) {
        let all = around_middles(seed, density);
        let blocks = scattered(&all, 2 + seed as usize % 3);
        let range = (2, 24, 1 + 2 * (seed as usize / 2 % 2));
        let whole = sweep(&mut Fit::new(std::slice::from_ref(&all)), range, 100, seed);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let parts = pool.install(|| sweep(&mut Fit::new(&blocks), range, 100, seed));
            for (a, b) in whole.iter().zip(&parts) {
                assert_eq!((&a.point, a.centroids()), (&b.point, b.centroids()), "seed {seed}, {threads} threads");
            }
        }
    }
}

/// Goal: where there are fewer distinct rows than clusters asked for, the sweep ends at as many; the last has inertia 0.
#[test]
fn a_sweep_ends_at_the_distinct_rows() {
    let rows: Vec<Vec<f64>> = (0..40).map(|i| vec![f64::from(i % 5), 1.0]).collect();
    for density in [Density::Sparse, Density::Dense] {
        let mut fit = Fit::new(&[points(density, &rows, &vec![1.0; 40])]);
        let steps = sweep(&mut fit, (1, 30, 2), 2_048, 1);
        assert_eq!(steps.len(), 5);
        let seeds = fit.seed(5, Init::KMeansPlusPlus, 1);
        let lloyd = Lloyd::new(TO_THE_END, fit.scale.clone(), fit.spread.clone(), seeds);
        let error = Sweep::try_new(lloyd, 6, 30, 1).unwrap_err().0;
        assert!(error.contains("only 5 rows that differ"), "{error}");
        assert!(steps[4].point.inertia <= 1e-12 * fit.spread.total, "{}", steps[4].point.inertia);
    }
}

/// Goal: a solution that is worse than one with fewer clusters is mended. Method: a run that ends in a bad optimum in
/// the place of the third of five groups' solutions.
#[test]
fn a_rise_is_mended() {
    let all = around_middles(5, Density::Dense);
    let mut fit = Fit::new(std::slice::from_ref(&all));
    let lloyd = |init| Lloyd::new(TO_THE_END, fit.scale.clone(), fit.spread.clone(), init);
    let good = fit.seed(4, Init::KMeansPlusPlus, 1);
    let mut state = Sweep::try_new(lloyd(good), 3, 4, 1).unwrap();
    // Never iterated: the sums are empty, and the inertia is that of no cluster at all.
    let mut never = state.branch();
    never[0].record(&[0; 4], None);
    state.take(never);
    let mut below = state.branch();
    let mut table = fit.table(below[0].lloyd().centroids());
    while !below[0].lloyd().is_done() {
        let partial = fit_pass(&mut fit, &table);
        below[0].advance(partial, &[]);
        table = fit.table(below[0].lloyd().centroids());
    }
    below[0].record(&[0; 3], None);
    state.take(below);
    let mut finished = state.finish().unwrap();
    assert_eq!(first_rise(&finished.steps), Some(1));
    let below = finished.steps[0].centroids();
    let far = fit.farthest(&fit.table(&below), 1);
    let mended = Fit::new(std::slice::from_ref(&all)).finish(finished.from_below(&below, &far));
    let mut one = Branch::of_one(mended);
    one.record(&[0; 4], None);
    finished.mend(1, one);
    assert_eq!(first_rise(&finished.steps), None);
    assert_eq!(finished.steps[1].point.n_clusters, 4);
}

fn fit_pass(fit: &mut Fit, table: &kmeans::CentroidTable) -> kmeans::Partial {
    in_place::pass(&mut fit.blocks, table, &fit.scale, None, &GO_ON).unwrap()
}

/// Goal: the Davies-Bouldin index is scikit-learn's, and the silhouette that of the distances to its centres.
#[test]
fn quality_equals_scikit_learn() {
    let oracle = &oracle()["quality"];
    let (x, init) = (matrix(&oracle["x"]), matrix(&oracle["init"]));
    for density in [Density::Sparse, Density::Dense] {
        let mut fit = Fit::new(&[points(density, &x, &vec![1.0; x.len()])]);
        let init = kmeans::Centroids::try_new(5, init.concat()).unwrap();
        let lloyd = fit.run(TO_THE_END, init);
        let sample = Sample::new(Sample::draw(&fit.blocks[0].points, 300, 1), 300, &fit.frame, 5);
        let table = fit.table(lloyd.centroids());
        let mut solved = Branch::of_one(lloyd);
        let distances = in_place::distances_of(&fit.blocks, &table, solved.is_stale(), &fit.scale);
        let point = solved.record(&distances, sample.silhouette(&table));
        let close = |ours: Option<f64>, theirs: &serde_json::Value| {
            let (ours, theirs) = (ours.unwrap(), theirs.as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
        };
        close(point.davies_bouldin, &oracle["davies_bouldin"]);
        close(point.silhouette, &oracle["silhouette"]);
    }
}

/// Goal: spherical k-means, step by step: centres are the means of their rows scaled to length 1, inertia is 2·Σ w·(1 − cos),
/// never rises, and ends where no label changes. Method: naive labels and means in `f64`, sparse and dense, with a row of
/// zeros.
#[test]
fn spherical_lloyd_equals_naive() {
    for (seed, density) in (0..10).zip([Density::Sparse, Density::Dense].into_iter().cycle()) {
        let mut all = Points::new(density, 9);
        for (i, row) in matrix_of(&Random(seed).points(density, 160, 9)).into_iter().enumerate() {
            let mut row = if i == 7 { vec![0.0; 9] } else { row };
            to_unit_length(&mut row);
            all.rows.push((0..).zip(row)).unwrap();
            all.weights.push((1 + i as u64 % 3) * WEIGHT_ONE);
        }
        let mut fit = Fit::new(std::slice::from_ref(&all));
        let blocks = vec![(fit.blocks[0].points.clone(), fit.blocks[0].distinct.clone())];
        let prospects = Prospects::new(blocks, Metric::Cosine);
        let (scale, frame) = (&fit.scale, &fit.frame);
        let params = kmeans::SeedParams { n_clusters: 6, init: Init::KMeansPlusPlus, random_state: seed };
        let init = kmeans::seed_at_most(prospects, &params, scale, frame, &GO_ON).unwrap();
        let params = LloydParams { metric: Metric::Cosine, max_iter: 40, tol: 0.0 };
        let mut lloyd = Lloyd::new(params, fit.scale.clone(), fit.spread.clone(), init);
        let mut table = fit.table(lloyd.centroids());
        let mut last = f64::INFINITY;
        while !lloyd.is_done() {
            let before = lloyd.centroids().clone();
            let labels = naive_labels(&all, &before);
            let partial = fit_pass(&mut fit, &table);
            assert_eq!(fit.blocks[0].labels().iter().map(|label| *label as usize).collect::<Vec<_>>(), labels);
            let stats = lloyd.advance(partial, &[]).clone();
            let expected = naive_inertia(&all, &labels, &before);
            assert!((stats.inertia - expected).abs() < 1e-9 * fit.spread.total, "{} {expected}", stats.inertia);
            assert!(stats.inertia <= last + 1e-9, "{} after {last}", stats.inertia);
            last = stats.inertia;
            for cluster in 0..6 {
                let mut mean = vec![0.0; 9];
                for (i, row) in matrix_of(&all).iter().enumerate().filter(|(i, _)| labels[*i] == cluster) {
                    mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += all.weights[i] as f64 * x);
                }
                if mean.iter().any(|x| *x != 0.0) {
                    to_unit_length(&mut mean);
                    let error = mean.iter().zip(lloyd.centroids().centre(cluster)).map(|(a, b)| (a - b).abs());
                    assert!(error.fold(0.0, f64::max) < 1e-12, "seed {seed}, cluster {cluster}");
                }
            }
            table.update(lloyd.centroids(), lloyd.changed());
        }
        assert!(lloyd.history().len() < 40, "seed {seed}");
        let around = lloyd.inertia_around_means();
        assert!((around - last).abs() < 1e-9 * fit.spread.total, "seed {seed}: {around} {last}");
    }
}

fn matrix_of(points: &Points) -> Vec<Vec<f64>> {
    let dense = |i: usize| {
        let mut row = vec![0.0; points.rows.n_features()];
        points.rows.row(i).iter().for_each(|(feature, x)| row[feature] = x);
        row
    };
    (0..points.len()).map(dense).collect()
}

/// Goal: silhouettes over a sample stand for all rows, heavy ones included. Method: the mean over many samples of rows
/// of very different weights, against all rows.
#[test]
fn samples_are_without_bias() {
    let rows: Vec<Vec<f64>> =
        (0..400).map(|i| vec![f64::from(i % 2) * 5.0 + f64::from(i) / 100.0, f64::from(i % 7)]).collect();
    let weights: Vec<f64> = (0..400).map(|i| if i % 50 == 0 { 300.0 } else { 1.0 + f64::from(i % 3) }).collect();
    let all = points(Density::Dense, &rows, &weights);
    let fit = Fit::new(std::slice::from_ref(&all));
    let table = fit.table(&fit.seed(3, Init::KMeansPlusPlus, 1));
    let silhouette =
        |n: usize, seed: u64| Sample::new(Sample::draw(&all, n, seed), n, &fit.frame, 2).silhouette(&table).unwrap();
    let exact = silhouette(400, 0);
    let mean = (0..300).map(|seed| silhouette(40, seed)).sum::<f64>() / 300.0;
    assert!((mean - exact).abs() < 0.01, "{mean} {exact}");
}
