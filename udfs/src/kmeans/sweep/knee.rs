//! Which number of clusters a curve of inertia speaks for.

use serde::{Deserialize, Serialize};

/// A straight line has depth 0, a right angle has depth 1: below this a curve is not bent enough.
const DEPTH_MIN: f64 = 0.1;

/// A knee may move by this share of its k when the curve is cut off halfway behind it.
const MOVED_SHARE_MAX: f64 = 0.1;

/// One number of clusters on the curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ElbowPoint {
    pub n_clusters: usize,
    pub n_iter: usize,
    /// Σ w·d² of all rows to the means of their clusters.
    #[serde(with = "crate::exact")]
    pub inertia: f64,
    /// The simplified silhouette, the mean over a sample of rows; none for one cluster.
    #[serde(with = "crate::exact::option")]
    pub silhouette: Option<f64>,
    /// None for one cluster.
    #[serde(with = "crate::exact::option")]
    pub davies_bouldin: Option<f64>,
}

/// What a curve was found to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The curve has a knee at this number of clusters.
    Knee(usize),
    /// It has none; the simplified silhouette is highest at this number of clusters.
    Silhouette(usize),
    /// It has none, and the silhouette still rises at the end; this is where the curve is bent most, which depends on
    /// where it ends.
    Bend(usize),
    /// No other number of clusters was looked at.
    Only(usize),
}

impl Choice {
    pub fn n_clusters(self) -> usize {
        match self {
            Self::Knee(k) | Self::Silhouette(k) | Self::Bend(k) | Self::Only(k) => k,
        }
    }

    /// In words for a user.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Knee(_) => "knee",
            Self::Silhouette(_) => "silhouette (no clear knee)",
            Self::Bend(_) => "bend (no clear knee, silhouette still rising at k_max)",
            Self::Only(_) => "the only one looked at",
        }
    }
}

/// The number of clusters at the knee, or else where the silhouette is highest, or else, where that is at the end of the
/// range, where the curve is bent most.
///
/// The knee is Kneedle's (Satopää et al. 2011): the point of the smoothed curve, scaled to the unit square, that lies
/// farthest below the straight line between its ends. Every convex curve has such a point. It counts as a knee only if
/// it stays where it is when half of the curve behind it is cut off: where a curve falls ever more slowly without any
/// bend, as it does on rows without clusters, the point wanders with the end.
pub fn choose(points: &[ElbowPoint]) -> Choice {
    if let [only] = points {
        return Choice::Only(only.n_clusters);
    }
    if let Some(k) = clear_knee(points) {
        return Choice::Knee(k);
    }
    let with_silhouette = points.iter().filter_map(|point| Some((point.silhouette?, point.n_clusters)));
    // Of equal ones the fewest clusters.
    let best = with_silhouette.fold(None, |best: Option<(f64, usize)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        _ => Some(next),
    });
    let last = points[points.len() - 1].n_clusters;
    match best {
        // More clusters always have nearer centres: at the end of the range it says nothing.
        Some((_, k)) if k == last && points.len() > 2 => {
            let inertia: Vec<f64> = points.iter().map(|point| point.inertia).collect();
            deepest(&inertia).map_or(Choice::Silhouette(k), |(at, _)| Choice::Bend(points[at].n_clusters))
        }
        best => Choice::Silhouette(best.map_or(points[0].n_clusters, |(_, k)| k)),
    }
}

fn clear_knee(points: &[ElbowPoint]) -> Option<usize> {
    let inertia: Vec<f64> = points.iter().map(|point| point.inertia).collect();
    let (at, depth) = deepest(&inertia)?;
    if depth < DEPTH_MIN {
        return None;
    }
    let cut = at + (points.len() - 1 - at).div_ceil(2);
    let (again, _) = deepest(&inertia[..=cut])?;
    let (k, other) = (points[at].n_clusters, points[again].n_clusters);
    (k.abs_diff(other) as f64 <= k as f64 * MOVED_SHARE_MAX).then_some(k)
}

/// The point of consecutive k that is farthest below the line between the ends, and how far, in shares of the height. It
/// is looked for on a smoothed curve, then among its neighbours: smoothing cuts corners.
fn deepest(inertia: &[f64]) -> Option<(usize, f64)> {
    let last = inertia.len().checked_sub(1).filter(|last| *last >= 2)?;
    let height = inertia[0] - inertia[last];
    if height <= 0.0 {
        return None;
    }
    let depth = |inertia_here: f64, i: usize| (inertia[0] - inertia_here) / height - i as f64 / last as f64;
    let smoothed = |i: usize| (inertia[i - 1] + 2.0 * inertia[i] + inertia[i + 1]) / 4.0;
    let deepest_of = |points: std::ops::Range<usize>, curve: &dyn Fn(usize) -> f64| {
        let depths = points.map(|i| (i, depth(curve(i), i)));
        depths.reduce(|best, next| if next.1 > best.1 { next } else { best })
    };
    let (near, _) = deepest_of(1..last, &smoothed)?;
    deepest_of(near.saturating_sub(1).max(1)..last.min(near + 2), &|i| inertia[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(inertia: impl Iterator<Item = f64>) -> Vec<ElbowPoint> {
        let point = |(n_clusters, inertia)| ElbowPoint {
            n_clusters,
            n_iter: 1,
            inertia,
            silhouette: (n_clusters > 1).then(|| 1.0 / (1.0 + (n_clusters as f64 - 7.0).abs())),
            davies_bouldin: None,
        };
        (1..).zip(inertia).map(point).collect()
    }

    /// Goal: a bend is found wherever it is, and none is invented. Method: curves with a bend at 5 and at 15 of 20, and
    /// curves without: 1/k, 1/√k and a straight line, which fall the same way at every scale.
    #[test]
    fn a_knee_is_found_or_none_is_invented() {
        let bent = |at: f64| (1..=20).map(f64::from).map(move |k| (at - k).max(0.0) * 10.0 + (20.0 - k) * 0.1);
        assert_eq!(choose(&curve(bent(5.0))), Choice::Knee(5));
        assert_eq!(choose(&curve(bent(15.0))), Choice::Knee(15));
        for power in [0.5, 1.0, 2.0] {
            let smooth = (1..=200).map(|k| 1e6 * libm::pow(f64::from(k), -power));
            assert_eq!(choose(&curve(smooth)), Choice::Silhouette(7), "{power}");
        }
        assert_eq!(choose(&curve((0..50).map(|k| 100.0 - f64::from(k)))), Choice::Silhouette(7));
        let slight = (0..7).map(f64::from).map(|k| 100.0 - 10.0 * k + 0.2 * k * k);
        assert_eq!(choose(&curve(slight)), Choice::Bend(4), "the silhouette is highest at the end");
        assert_eq!(choose(&curve([3.0].into_iter())), Choice::Only(1));
        assert_eq!(choose(&curve([3.0; 9].into_iter())), Choice::Silhouette(7));
    }
}
