//! Labels of a model that is trained again: each goes to the cluster whose centre is most like the one it was given to.

use std::collections::{BTreeMap, HashMap};

use covey_engine::models::{Likeness, Model, ModelFeatures, ModelRegistry, NewModel};
use covey_udfs::kmeans::Centroids;

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
    let Some(before) = in_terms_of(old, new) else { return vec![] };
    let after = &new.files.centroids;
    let origin = origin(new);
    let mut pairs: Vec<(Likeness, u32, u32)> = vec![];
    for cluster in old.manifest.labels.keys() {
        for candidate in 0..after.n_clusters() as u32 {
            let likeness = likeness(&before[cluster], after.centre(candidate as usize), &origin);
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
            taken.insert(candidate, (old.manifest.labels[&cluster].clone(), likeness));
        }
    }
    taken.into_iter().map(|(cluster, (label, likeness))| (cluster, label, likeness)).collect()
}

/// The old centres that have labels, by the new features; none where the features are not of one kind. Terms that are not
/// among the new ones count as a feature of their own, at the end, by the norm of what is lost.
fn in_terms_of(old: &Model, new: &NewModel) -> Option<BTreeMap<u32, Vec<f64>>> {
    let centres = &old.files.centroids;
    let place: Vec<Option<usize>> = match (&old.manifest.features, &new.features) {
        (ModelFeatures::Text { .. }, ModelFeatures::Text { .. }) => {
            let (before, after) = (old.files.vocabulary.as_ref()?, new.files.vocabulary.as_ref()?);
            before.terms().iter().map(|term| after.position(term).map(|at| at as usize)).collect()
        }
        (ModelFeatures::Columns(before), ModelFeatures::Columns(after)) => {
            let places: HashMap<&String, usize> = after.iter().enumerate().map(|(at, name)| (name, at)).collect();
            before.iter().map(|name| places.get(name).copied()).collect()
        }
        (ModelFeatures::List { .. }, ModelFeatures::List { .. }) => {
            let n = new.files.centroids.n_features();
            (0..centres.n_features()).map(|feature| (feature < n).then_some(feature)).collect()
        }
        _ => return None,
    };
    let moved = |cluster: &u32| {
        let mut centre = vec![0.0; new.files.centroids.n_features()];
        let mut lost = 0.0;
        for (x, place) in centres.centre(*cluster as usize).iter().zip(&place) {
            match place {
                Some(at) => centre[*at] = *x,
                None => lost += x * x,
            }
        }
        centre.push(f64::sqrt(lost));
        (*cluster, centre)
    };
    Some(old.manifest.labels.keys().map(moved).collect())
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

/// 2·a·b / (‖a‖² + ‖b‖²), not below 0: 1 for equal centres, 0 for such that have nothing in common. `before` has one feature
/// more, which `after` is zero at.
fn likeness(before: &[f64], after: &[f64], origin: &[f64]) -> f64 {
    let lost = before.last().copied().unwrap_or_default();
    let (mut product, mut squares) = (0.0, lost * lost);
    for ((a, b), o) in before.iter().zip(after).zip(origin) {
        product += (a - o) * (b - o);
        squares += (a - o) * (a - o) + (b - o) * (b - o);
    }
    if squares > 0.0 { (2.0 * product / squares).max(0.0) } else { 1.0 }
}
