//! From the centres of one model to those of another, whose terms may be others. Labels of a model that is trained again go
//! to the clusters whose centres are most like those that they were given to.

use std::collections::{BTreeMap, HashMap};

use covey_engine::models::{Likeness, Model, ModelFeatures, ModelRegistry, NewModel};
use covey_udfs::kmeans::Centroids;
use covey_udfs::tfidf::Vocabulary;

/// Centres that are less alike are not taken for the same cluster.
const LIKENESS_MIN: f64 = 0.5;

/// Carries the labels of the model that `new` replaces over to it. A model that cannot be read has none to give: it is
/// replaced because of that.
pub(super) async fn carry_labels(models: &ModelRegistry, new: &mut NewModel) {
    let old = async { models.load(models.get(&new.name).await?).await };
    let Ok(old) = old.await else { return };
    for (cluster, label, likeness) in matches(&old, new) {
        new.labels.insert(cluster, label);
        new.label_matches.insert(cluster, likeness);
    }
}

/// Each label at most once and at most one for each cluster, the pairs that are most alike first.
fn matches(old: &Model, new: &NewModel) -> Vec<(u32, String, Likeness)> {
    let (labels, after) = (&old.manifest.labels, &new.files.centroids);
    let labelled: Vec<u32> = labels.keys().copied().collect();
    let vocabulary = new.files.vocabulary.as_ref();
    let Some(before) = centres_in(old, &labelled, &new.features, vocabulary, after.n_features()) else {
        return vec![];
    };
    let origin = origin(new);
    let mut pairs: Vec<(Likeness, u32, u32)> = vec![];
    for (cluster, before) in labelled.iter().zip(&before) {
        for candidate in 0..after.n_clusters() as u32 {
            let likeness = likeness(before, after.centre(candidate as usize), &origin);
            if likeness >= LIKENESS_MIN {
                pairs.push((Likeness(likeness), *cluster, candidate));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.0.total_cmp(&a.0.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut given, mut taken) = (BTreeMap::new(), BTreeMap::new());
    for (likeness, cluster, candidate) in pairs {
        if !given.contains_key(&cluster) && !taken.contains_key(&candidate) {
            given.insert(cluster, ());
            taken.insert(candidate, (labels[&cluster].clone(), likeness));
        }
    }
    taken.into_iter().map(|(cluster, (label, likeness))| (cluster, label, likeness)).collect()
}

/// A centre of one model by the features of another.
pub(super) struct Moved {
    pub values: Vec<f64>,
    /// The norm of what the other has no features for.
    lost: f64,
}

/// Centres of `old` by other features, of which there are `n`; none where the two are not of one kind, or numbers have other names.
pub(super) fn centres_in(
    old: &Model,
    clusters: &[u32],
    features: &ModelFeatures,
    vocabulary: Option<&Vocabulary>,
    n: usize,
) -> Option<Vec<Moved>> {
    let centres = &old.files.centroids;
    let place: Vec<Option<usize>> = match (&old.manifest.features, features) {
        (ModelFeatures::Text { .. }, ModelFeatures::Text { .. }) => {
            let (before, after) = (old.files.vocabulary.as_ref()?, vocabulary?);
            before.terms().iter().map(|term| after.position(term).map(|at| at as usize)).collect()
        }
        (ModelFeatures::Columns(before), ModelFeatures::Columns(after)) => {
            let places: HashMap<&String, usize> = after.iter().enumerate().map(|(at, name)| (name, at)).collect();
            // Numbers that are not known are no zeros, as terms are that a text does not have.
            let places: Vec<Option<usize>> = before.iter().map(|name| places.get(name).copied()).collect();
            if before.len() != after.len() || places.contains(&None) {
                return None;
            }
            places
        }
        (ModelFeatures::List { .. }, ModelFeatures::List { .. }) if centres.n_features() == n => {
            (0..n).map(Some).collect()
        }
        _ => return None,
    };
    let moved = |cluster: &u32| {
        let (mut values, mut lost) = (vec![0.0; n], 0.0);
        for (x, place) in centres.centre(*cluster as usize).iter().zip(&place) {
            match place {
                Some(at) => values[*at] = *x,
                None => lost += x * x,
            }
        }
        Moved { values, lost: f64::sqrt(lost) }
    };
    Some(clusters.iter().map(moved).collect())
}

/// What centres are measured from: texts from zero, numbers from the mean of the new centres.
fn origin(new: &NewModel) -> Vec<f64> {
    let centroids: &Centroids = &new.files.centroids;
    let mut origin = vec![0.0; centroids.n_features()];
    if matches!(new.features, ModelFeatures::Text { .. }) {
        return origin;
    }
    for cluster in 0..centroids.n_clusters() {
        let n = centroids.n_clusters() as f64;
        origin.iter_mut().zip(centroids.centre(cluster)).for_each(|(mean, x)| *mean += x / n);
    }
    origin
}

/// 2·a·b / (‖a‖² + ‖b‖²), not below 0: 1 for equal centres, 0 for such that have nothing in common.
fn likeness(before: &Moved, after: &[f64], origin: &[f64]) -> f64 {
    let (mut product, mut squares) = (0.0, before.lost * before.lost);
    for ((a, b), o) in before.values.iter().zip(after).zip(origin) {
        product += (a - o) * (b - o);
        squares += (a - o) * (a - o) + (b - o) * (b - o);
    }
    if squares > 0.0 { (2.0 * product / squares).max(0.0) } else { 1.0 }
}
