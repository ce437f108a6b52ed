//! The options of CREATE MODEL: scikit-learn's names and defaults, declared once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use covey_engine::coordinator::RUNS_AT_ONCE_MAX;
use covey_engine::models::{METRIC_COSINE, METRIC_OPTION};
use covey_engine::{external, user_err};
use covey_udfs::kmeans::{CLUSTERS_MAX, Init, Metric, SWEEP_CLUSTERS_MAX};
use covey_udfs::tfidf::{DocumentFrequency, Norm, TfidfParams};
use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::error::Result;

/// Most runs from different starting centres.
const RUNS_MAX: usize = 1_000;

/// Most iterations of a run.
const ITERATIONS_MAX: usize = 1_000_000;

/// A misspelt option is answered with the nearest name within this many edits, and within half its length.
const SUGGESTION_EDITS_MAX: usize = 4;

/// Where the iterations of a fit run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// `Local` when the blocks fit one executor, else `Distributed`.
    Auto,
    /// The whole fit as one task.
    Local,
    /// One job for each iteration, on all executors.
    Distributed,
}

/// The numbers of clusters that the elbow is looked for among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elbow {
    pub k_min: usize,
    pub k_max: usize,
    /// How many of them share each pass over the rows; the fit decides where it is not given.
    pub k_batch: Option<usize>,
}

impl Default for Elbow {
    fn default() -> Self {
        Self { k_min: 1, k_max: 200, k_batch: None }
    }
}

/// Everything that CREATE MODEL can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// The most that are looked at, where they are chosen by the elbow.
    pub n_clusters: usize,
    /// `n_clusters 'auto'`.
    pub elbow: Option<Elbow>,
    pub init: Init,
    /// The fit begins with centres that are given.
    pub given: Option<GivenCentres>,
    /// Runs from different starting centres; the one with the lowest inertia is kept.
    pub n_init: usize,
    pub max_iter: usize,
    /// Relative to the mean variance of the features, as in scikit-learn.
    pub tol: f64,
    pub random_state: u64,
    pub strategy: Strategy,
    pub metric: Metric,
    pub tfidf: TfidfParams,
    /// Options of text that were given: a fit on numbers refuses them.
    pub text_options: BTreeSet<String>,
}

const NAMES: [&str; 21] = [
    "n_clusters",
    "k_min",
    "k_max",
    "k_batch",
    "init",
    "n_init",
    "max_iter",
    "tol",
    "random_state",
    "strategy",
    "metric",
    "lowercase",
    "token_pattern",
    "ngram_range",
    "min_df",
    "max_df",
    "max_features",
    "norm",
    "use_idf",
    "smooth_idf",
    "sublinear_tf",
];

/// Where the centres are that a fit begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenCentres {
    /// `init 'model:NAME'`: those of that model.
    Model(String),
    /// `init 'table:NAME'`: the rows of that table or view.
    Table(String),
}

/// The values of `init` that choose rows.
const INITS: [(&str, Init); 3] =
    [("k-means++", Init::KMeansPlusPlus), ("k-means||", Init::KMeansParallel), ("random", Init::Random)];

/// Begin the values of `init` that name a model or a table.
const MODEL_PREFIX: &str = "model:";
const TABLE_PREFIX: &str = "table:";

impl GivenCentres {
    /// Of a value of `init`, where it names any.
    fn parse(init: &str) -> Option<Self> {
        let model = init.strip_prefix(MODEL_PREFIX).map(|name| Self::Model(name.to_string()));
        model.or_else(|| init.strip_prefix(TABLE_PREFIX).map(|name| Self::Table(name.to_string())))
    }
}

impl Display for GivenCentres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Model(name) => write!(f, "{MODEL_PREFIX}{name}"),
            Self::Table(name) => write!(f, "{TABLE_PREFIX}{name}"),
        }
    }
}

/// scikit-learn's.
const TOKEN_PATTERN_DEFAULT: &str = r"(?u)\b\w\w+\b";

impl FitOptions {
    /// # Errors
    /// Names the first option that is unknown, given twice, or out of range.
    pub fn try_new(given: Vec<(String, String)>) -> Result<Self> {
        let mut options = Self {
            n_clusters: 8,
            elbow: None,
            init: Init::KMeansPlusPlus,
            given: None,
            n_init: 0,
            max_iter: 300,
            tol: 1e-4,
            random_state: 0,
            strategy: Strategy::Auto,
            metric: Metric::Euclidean,
            tfidf: TfidfParams::default(),
            text_options: BTreeSet::new(),
        };
        let mut seen = BTreeSet::new();
        let mut range = Elbow::default();
        for (name, value) in given {
            if !seen.insert(name.clone()) {
                return user_err!("option {name} is given twice");
            }
            match name.as_str() {
                "k_min" => range.k_min = parse(&name, &value, "a number of clusters")?,
                "k_max" => range.k_max = parse(&name, &value, "a number of clusters")?,
                "k_batch" if value == "auto" => range.k_batch = None,
                "k_batch" => range.k_batch = Some(parse(&name, &value, "a number of numbers of clusters, or 'auto'")?),
                "n_clusters" if value == "auto" => options.elbow = Some(range),
                _ => options.set(&name, &value)?,
            }
        }
        options.take_range(range, &seen)?;
        options.check_given_centres()?;
        if options.n_init == 0 {
            // scikit-learn's 'auto'.
            options.n_init = if options.init == Init::Random { 10 } else { 1 };
        }
        options.check()?;
        Ok(options)
    }

    fn check_given_centres(&self) -> Result<()> {
        let Some(given) = &self.given else { return Ok(()) };
        if self.elbow.is_some() {
            return user_err!("init '{given}' gives one number of clusters: give n_clusters, not 'auto'");
        }
        if self.n_init > 1 {
            return user_err!(
                "init '{given}' always begins at the same centres: n_init must be 1, got {}",
                self.n_init
            );
        }
        Ok(())
    }

    fn take_range(&mut self, range: Elbow, given: &BTreeSet<String>) -> Result<()> {
        let Some(elbow) = &mut self.elbow else {
            return match ["k_min", "k_max", "k_batch"].iter().find(|name| given.contains(**name)) {
                Some(name) => user_err!("option {name} is for n_clusters 'auto'"),
                None => Ok(()),
            };
        };
        let Elbow { k_min, k_max, k_batch } = range;
        if !(1 <= k_min && k_min <= k_max && k_max <= SWEEP_CLUSTERS_MAX) {
            return user_err!(
                "k_min and k_max must be between 1 and {SWEEP_CLUSTERS_MAX}, the first not above the other, got {k_min} and {k_max}"
            );
        }
        if let Some(k_batch) = k_batch.filter(|k_batch| !(1..=RUNS_AT_ONCE_MAX).contains(k_batch)) {
            return user_err!("k_batch must be between 1 and {RUNS_AT_ONCE_MAX}, or 'auto', got {k_batch}");
        }
        *elbow = range;
        self.n_clusters = k_max;
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "n_clusters" => self.n_clusters = parse(name, value, "a number of clusters, or 'auto'")?,
            "init" => match GivenCentres::parse(value) {
                Some(given) => self.given = Some(given),
                None => self.init = choose_init(value)?,
            },
            "n_init" if value == "auto" => self.n_init = 0,
            "n_init" => match parse(name, value, "a number of runs, or 'auto'")? {
                0 => return user_err!("n_init must be between 1 and {RUNS_MAX}, or 'auto', got 0"),
                runs => self.n_init = runs,
            },
            "max_iter" => self.max_iter = parse(name, value, "a number of iterations")?,
            "tol" => self.tol = parse(name, value, "a number not below 0")?,
            "random_state" => self.random_state = parse(name, value, "a whole number not below 0")?,
            "metric" => {
                self.metric =
                    choose(name, value, &[("euclidean", Metric::Euclidean), (METRIC_COSINE, Metric::Cosine)])?;
            }
            "strategy" => {
                let values =
                    [("auto", Strategy::Auto), ("local", Strategy::Local), ("distributed", Strategy::Distributed)];
                self.strategy = choose(name, value, &values)?;
            }
            _ => {
                self.set_text(name, value)?;
                self.text_options.insert(name.to_string());
            }
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: &str) -> Result<()> {
        let tfidf = &mut self.tfidf;
        match name {
            "lowercase" => tfidf.lowercase = parse(name, value, "true or false")?,
            // The default is a tokenizer of our own, which knows Python's letters.
            "token_pattern" => tfidf.token_pattern = (value != TOKEN_PATTERN_DEFAULT).then(|| value.to_string()),
            "ngram_range" => tfidf.ngram_range = pair(name, value)?,
            "min_df" => tfidf.min_df = document_frequency(name, value)?,
            "max_df" => tfidf.max_df = document_frequency(name, value)?,
            "max_features" if value.eq_ignore_ascii_case("none") => tfidf.max_features = None,
            "max_features" => tfidf.max_features = Some(parse(name, value, "a number of terms, or none")?),
            "norm" => tfidf.norm = choose(name, value, &[("l1", Norm::L1), ("l2", Norm::L2), ("none", Norm::None)])?,
            "use_idf" => tfidf.use_idf = parse(name, value, "true or false")?,
            "smooth_idf" => tfidf.smooth_idf = parse(name, value, "true or false")?,
            "sublinear_tf" => tfidf.sublinear_tf = parse(name, value, "true or false")?,
            _ => return unknown(name),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if !(1..=CLUSTERS_MAX).contains(&self.n_clusters) {
            return user_err!("n_clusters must be between 1 and {CLUSTERS_MAX}, got {}", self.n_clusters);
        }
        if self.n_init > RUNS_MAX {
            return user_err!("n_init must be between 1 and {RUNS_MAX}, got {}", self.n_init);
        }
        if !(1..=ITERATIONS_MAX).contains(&self.max_iter) {
            return user_err!("max_iter must be between 1 and {ITERATIONS_MAX}, got {}", self.max_iter);
        }
        if !(self.tol.is_finite() && self.tol >= 0.0) {
            return user_err!("tol must be a finite number not below 0, got {}", self.tol);
        }
        self.tfidf.check().map_err(external)
    }

    /// What decides the result, by name: recorded in the model and part of its digest. Not the strategy.
    pub fn recorded(&self, text: bool) -> BTreeMap<String, String> {
        let mut recorded = BTreeMap::new();
        let mut put = |name: &str, value: &dyn Display| recorded.insert(name.to_string(), value.to_string());
        match self.elbow {
            Some(Elbow { k_min, k_max, k_batch }) => {
                put("n_clusters", &"auto");
                put("k_min", &k_min);
                put("k_max", &k_max);
                put("k_batch", &k_batch.map_or("auto".to_string(), |n| n.to_string()));
            }
            None => {
                put("n_clusters", &self.n_clusters);
            }
        }
        match (&self.given, INITS.iter().find(|(_, init)| *init == self.init)) {
            (Some(given), _) => put("init", given),
            (None, chosen) => put("init", &chosen.map_or("", |(name, _)| name)),
        };
        if self.metric == Metric::Cosine {
            put(METRIC_OPTION, &METRIC_COSINE);
        }
        put("n_init", &self.n_init);
        put("max_iter", &self.max_iter);
        put("tol", &self.tol);
        put("random_state", &self.random_state);
        if text {
            let tfidf = &self.tfidf;
            put("lowercase", &tfidf.lowercase);
            put("token_pattern", &tfidf.token_pattern.as_deref().unwrap_or(TOKEN_PATTERN_DEFAULT));
            put("ngram_range", &format!("({}, {})", tfidf.ngram_range.0, tfidf.ngram_range.1));
            put("min_df", &frequency_text(tfidf.min_df));
            put("max_df", &frequency_text(tfidf.max_df));
            put("max_features", &tfidf.max_features.map_or("none".to_string(), |n| n.to_string()));
            put("norm", &format!("{:?}", tfidf.norm).to_lowercase());
            put("use_idf", &tfidf.use_idf);
            put("smooth_idf", &tfidf.smooth_idf);
            put("sublinear_tf", &tfidf.sublinear_tf);
        }
        recorded
    }
}

fn parse<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T> {
    match value.parse() {
        Ok(value) => Ok(value),
        Err(_) => user_err!("option {name} must be {expected}, got {value:?}"),
    }
}

fn choose_init(value: &str) -> Result<Init> {
    if let Ok(init) = choose("init", value, &INITS) {
        return Ok(init);
    }
    let names: Vec<String> = INITS.iter().map(|(name, _)| format!("'{name}'")).collect();
    user_err!(
        "option init must be one of {}, '{MODEL_PREFIX}NAME' or '{TABLE_PREFIX}NAME', got {value:?}",
        names.join(", ")
    )
}

fn choose<T: Copy>(name: &str, value: &str, values: &[(&str, T)]) -> Result<T> {
    if let Some((_, chosen)) = values.iter().find(|(text, _)| *text == value) {
        return Ok(*chosen);
    }
    let texts: Vec<String> = values.iter().map(|(text, _)| format!("'{text}'")).collect();
    user_err!("option {name} must be one of {}, got {value:?}", texts.join(", "))
}

fn pair(name: &str, value: &str) -> Result<(usize, usize)> {
    let numbers: Vec<usize> = value
        .trim_matches(['(', ')'])
        .split(',')
        .map(|number| parse(name, number.trim(), "a pair such as (1, 2)"))
        .collect::<Result<_>>()?;
    match numbers[..] {
        [low, high] => Ok((low, high)),
        _ => user_err!("option {name} must be a pair such as (1, 2), got {value:?}"),
    }
}

/// A whole number counts documents, a number with a point is a share of them: scikit-learn's rule.
fn document_frequency(name: &str, value: &str) -> Result<DocumentFrequency> {
    const EXPECTED: &str = "a number of documents, or a share such as 0.5";
    if value.contains(['.', 'e']) {
        return parse(name, value, EXPECTED).map(DocumentFrequency::Share);
    }
    parse(name, value, EXPECTED).map(DocumentFrequency::Count)
}

fn frequency_text(frequency: DocumentFrequency) -> String {
    match frequency {
        DocumentFrequency::Count(count) => count.to_string(),
        DocumentFrequency::Share(share) => format!("{share:?}"),
    }
}

fn unknown<T>(name: &str) -> Result<T> {
    let nearest = NAMES.iter().map(|known| (levenshtein(known, name), known)).min();
    let suggestion = match nearest {
        Some((edits, known)) if edits <= SUGGESTION_EDITS_MAX && 2 * edits < name.len() => {
            format!("did you mean {known:?}? ")
        }
        _ => String::new(),
    };
    user_err!("unknown option {name:?}; {suggestion}the options are {}", NAMES.join(", "))
}
