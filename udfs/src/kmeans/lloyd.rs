//! Lloyd's loop as a state machine: whoever runs the passes, in one task or as jobs on a cluster, feeds it
//! merged partials and gets the next centres. Both ways therefore take the same steps.

use serde::{Deserialize, Serialize};

use super::{Centroids, FarPoint, FixedPoint, Partial};

/// When to stop, in scikit-learn's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LloydParams {
    pub max_iter: usize,
    /// Already multiplied by the mean variance of the features, as scikit-learn does.
    pub squared_shift_min: f64,
}

/// What one iteration found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IterationStats {
    /// Counted from 1.
    pub iteration: usize,
    /// Σ w·d² to the centres that the iteration began with.
    #[serde(with = "crate::exact")]
    pub inertia: f64,
    /// Σ ‖c − c'‖² between the centres before and after.
    #[serde(with = "crate::exact")]
    pub squared_shift: f64,
    pub n_empty: usize,
    /// Rows assigned, each once whatever its weight.
    pub n_points: u64,
    /// Σ w of the rows assigned, in weight units.
    pub weight: u64,
}

/// The state of one run.
#[derive(Debug, Clone)]
pub struct Lloyd {
    params: LloydParams,
    scale: FixedPoint,
    centroids: Centroids,
    history: Vec<IterationStats>,
    done: bool,
}

impl Lloyd {
    pub fn new(params: LloydParams, scale: FixedPoint, init: Centroids) -> Self {
        assert_eq!(scale.n_features(), init.n_features());
        Self { params, scale, centroids: init, history: vec![], done: params.max_iter == 0 }
    }

    pub fn centroids(&self) -> &Centroids {
        &self.centroids
    }

    pub fn scale(&self) -> &FixedPoint {
        &self.scale
    }

    pub fn history(&self) -> &[IterationStats] {
        &self.history
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Ends an iteration: `partial` is the sum over all rows for [`Self::centroids`], `farthest` as many rows
    /// as the partial has empty clusters (fewer where there are not that many).
    pub fn advance(&mut self, mut partial: Partial, farthest: &[FarPoint]) -> &IterationStats {
        let n_empty = partial.empty_clusters().len();
        partial.relocate(&self.scale, farthest);
        let next = partial.means(&self.scale, &self.centroids);
        let squared_shift = next.squared_shift(&self.centroids);
        self.centroids = next;
        self.history.push(IterationStats {
            iteration: self.history.len() + 1,
            inertia: self.scale.inertia(partial.inertia),
            squared_shift,
            n_empty,
            n_points: partial.n_points,
            weight: partial.weight(),
        });
        // Labels that did not change give the same sums and so the same bits: no shift at all.
        self.done = squared_shift <= self.params.squared_shift_min || self.history.len() >= self.params.max_iter;
        self.history.last().expect("just pushed")
    }
}
