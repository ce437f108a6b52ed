//! Runs the pairs of some seeds, and makes what differs small.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clusters::Cluster;
use super::generator::{Query, Question};
use super::judges::{Asked, DataFusion, ask_duckdb};
use super::session::{HANGS, Session};
use super::shapes::{ClusterKind, Form, Shape};
use super::verdict::{Answer, Verdict, asked_of_judges, judge};
use super::world::{WORLD_SEEDS, World};
use crate::random::Random;

/// Worlds whose queries DuckDB is asked in one batch.
const WORLDS_AT_ONCE: usize = 25;

/// An executor is killed after so many milliseconds at the most.
const KILL_MILLISECONDS_MAX: u64 = 60;

/// Times that a failure is tried to be made smaller.
const SHRINKS_MAX: usize = 150;

#[derive(Debug, Clone)]
pub struct Options {
    pub seeds: Range<u64>,
    /// A line for each pair goes here; pairs that are in it already are not run again.
    pub log: Option<PathBuf>,
    /// Only this cluster.
    pub cluster: Option<ClusterKind>,
    pub shrinks: bool,
    /// Whether executors are killed: what they were just sending is not always sent again yet.
    pub kills: bool,
    /// The script that asks DuckDB.
    pub script: PathBuf,
}

/// What has become of the pairs.
#[derive(Debug, Default)]
pub struct Summary {
    pub verdicts: BTreeMap<String, usize>,
    pub clusters: BTreeMap<ClusterKind, usize>,
    pub failures: Vec<String>,
}

impl Summary {
    fn count(&mut self, shape: &Shape, verdict: &Verdict) {
        let name = match verdict {
            Verdict::Difference(text) if text.contains(HANGS) => "hang".into(),
            Verdict::Difference(_) => "difference".to_string(),
            Verdict::Refused(_) => "refused".to_string(),
            other => format!("{other:?}"),
        };
        *self.verdicts.entry(name).or_default() += 1;
        *self.clusters.entry(shape.cluster).or_default() += 1;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: usize = self.verdicts.values().sum();
        writeln!(f, "{pairs} pairs: {:?}", self.verdicts)?;
        write!(f, "by cluster: {:?}", self.clusters)
    }
}

/// Runs one pair for each seed.
///
/// # Errors
/// When files cannot be written, or a judge cannot be started. What differs is in the summary.
pub async fn run(options: &Options) -> Result<Summary, String> {
    let mut runner = Runner { options: options.clone(), clusters: BTreeMap::new(), summary: Summary::default() };
    let done = read_log(options.log.as_deref())?;
    let seeds: Vec<u64> = options.seeds.clone().filter(|seed| !done.contains(seed)).collect();
    let mut worlds: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for seed in seeds {
        let cluster = Shape::of(seed).cluster;
        let is_wanted = options.kills || cluster != ClusterKind::KilledExecutor;
        if is_wanted && options.cluster.is_none_or(|wanted| wanted == cluster) {
            worlds.entry(seed / WORLD_SEEDS).or_default().push(seed);
        }
    }
    let worlds: Vec<(u64, Vec<u64>)> = worlds.into_iter().collect();
    for group in worlds.chunks(WORLDS_AT_ONCE) {
        runner.group(group).await?;
    }
    Ok(runner.summary)
}

/// Seeds that an earlier run has answered.
fn read_log(log: Option<&Path>) -> Result<Vec<u64>, String> {
    let Some(log) = log.filter(|log| log.exists()) else { return Ok(vec![]) };
    let text = std::fs::read_to_string(log).map_err(|e| format!("{}: {e}", log.display()))?;
    Ok(text.lines().filter_map(|line| line.split('\t').next()?.parse().ok()).collect())
}

struct Runner {
    options: Options,
    clusters: BTreeMap<ClusterKind, Cluster>,
    summary: Summary,
}

/// A pair with what is known of it.
struct Pair {
    seed: u64,
    shape: Shape,
    question: Question,
}

impl Runner {
    async fn group(&mut self, group: &[(u64, Vec<u64>)]) -> Result<(), String> {
        let mut worlds = vec![];
        for (number, seeds) in group {
            let world = World::new(*number)?;
            let pairs: Vec<Pair> = seeds
                .iter()
                .map(|seed| Pair { seed: *seed, shape: Shape::of(*seed), question: world.question(*seed) })
                .collect();
            worlds.push((world, pairs));
        }
        let asked: Vec<Asked<'_>> = worlds
            .iter()
            .map(|(world, pairs)| Asked {
                tables: &world.tables,
                folder: world.folder.path(),
                queries: pairs.iter().filter_map(|pair| asked_of_judges(&pair.question)).map(Query::to_sql).collect(),
            })
            .collect();
        let answers = ask_duckdb(&asked, &self.options.script)?;
        for ((world, pairs), answers) in worlds.iter().zip(answers) {
            let datafusion = DataFusion::new(&world.tables, world.folder.path()).await?;
            let mut answers = answers.into_iter();
            for pair in pairs {
                let duckdb = match &pair.question {
                    Question::Query(_) => answers.next().unwrap_or_else(|| Err("no answer".into())),
                    Question::Same(..) => Err("not asked".into()),
                };
                self.pair(world, pair, &datafusion, &duckdb).await?;
            }
            for cluster in self.clusters.values_mut() {
                cluster.leave(world).await?;
            }
        }
        Ok(())
    }

    async fn pair(
        &mut self,
        world: &World,
        pair: &Pair,
        datafusion: &DataFusion,
        duckdb: &Answer,
    ) -> Result<(), String> {
        let verdict = match &pair.question {
            Question::Query(query) => {
                let expected = datafusion.run(&query.to_sql()).await;
                let ours = self.ask(world, &pair.shape, query, pair.seed).await;
                judge(query, pair.shape.form, &world.tables, &ours, &expected, duckdb)
            }
            Question::Same(left, right) => self.same(world, pair, left, right, datafusion).await,
        };
        self.summary.count(&pair.shape, &verdict);
        self.write_log(pair, &verdict)?;
        if let Verdict::Difference(text) = &verdict {
            let report = self.report(world, pair, text, datafusion).await;
            eprintln!("{report}");
            self.summary.failures.push(report);
        }
        Ok(())
    }

    fn write_log(&self, pair: &Pair, verdict: &Verdict) -> Result<(), String> {
        let Some(log) = &self.options.log else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).open(log).map_err(|e| e.to_string())?;
        let verdict = format!("{verdict:?}").replace('\n', " ");
        writeln!(file, "{}\t{}\t{verdict}", pair.seed, pair.shape).map_err(|e| e.to_string())
    }

    /// Two queries of which both have the same answer.
    async fn same(&mut self, world: &World, pair: &Pair, left: &Query, right: &Query, judge: &DataFusion) -> Verdict {
        let ours =
            (self.ask(world, &pair.shape, left, pair.seed).await, self.ask(world, &pair.shape, right, pair.seed).await);
        match ours {
            (Ok(left), Ok(right)) => match left.difference(&right, &[], false) {
                None => Verdict::Same,
                Some(text) => Verdict::Difference(format!("two forms of one question differ: {text}")),
            },
            (Err(left_text), _) if judge.run(&left.to_sql()).await.is_ok() => {
                Verdict::Difference(format!("error: {left_text}"))
            }
            (_, Err(right_text)) if judge.run(&right.to_sql()).await.is_ok() => {
                Verdict::Difference(format!("error: {right_text}"))
            }
            (Err(refused), _) | (_, Err(refused)) => Verdict::Refused(refused),
        }
    }

    /// Covey's answer in a shape.
    async fn ask(&mut self, world: &World, shape: &Shape, query: &Query, seed: u64) -> Answer {
        let cluster = match self.clusters.entry(shape.cluster) {
            Entry::Occupied(running) => running.into_mut(),
            Entry::Vacant(place) => place.insert(Cluster::start(shape.cluster).await),
        };
        let mut session = cluster.session(world, shape).await?;
        if shape.cluster != ClusterKind::KilledExecutor {
            return answer(&mut session, shape.form, query, seed).await;
        }
        let mut random = Random::of(&[seed, 0xdead]);
        let (delay, victim) = (random.below(KILL_MILLISECONDS_MAX), random.below(3) as usize);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            cluster.replace_executor(victim).await;
        };
        let (answered, ()) = tokio::join!(answer(&mut session, shape.form, query, seed), kill);
        answered
    }

    /// The failure with the smallest query that still fails, and the tables.
    async fn report(&mut self, world: &World, pair: &Pair, text: &str, datafusion: &DataFusion) -> String {
        let shape = pair.shape;
        let head = format!("seed {} in world {}, {shape}: {text}", pair.seed, world.number);
        let query = match &pair.question {
            Question::Query(query) if self.options.shrinks => query.clone(),
            Question::Query(query) => return format!("{head}\n  {}\n", query.to_sql()),
            Question::Same(left, right) => return format!("{head}\n  {}\n  {}\n", left.to_sql(), right.to_sql()),
        };
        let (query, text) = self.smallest(world, pair, query, text, datafusion).await;
        format!("{head}\n  smallest: {}\n  {text}\n", query.to_sql())
    }

    async fn smallest(
        &mut self,
        world: &World,
        pair: &Pair,
        query: Query,
        text: &str,
        datafusion: &DataFusion,
    ) -> (Query, String) {
        let (mut query, mut text) = (query, text.to_string());
        let mut tries = 0;
        'shrinking: loop {
            let mut candidates = query.smaller();
            candidates.sort_by_key(|candidate| candidate.to_sql().len());
            for candidate in candidates {
                tries += 1;
                if tries > SHRINKS_MAX || text.contains(HANGS) {
                    return (query, text);
                }
                if let Some(still) = self.still_differs(world, pair, &candidate, datafusion).await {
                    (query, text) = (candidate, still);
                    continue 'shrinking;
                }
            }
            return (query, text);
        }
    }

    /// How a smaller query still differs from DataFusion in one process.
    async fn still_differs(
        &mut self,
        world: &World,
        pair: &Pair,
        query: &Query,
        datafusion: &DataFusion,
    ) -> Option<String> {
        let expected = datafusion.run(&query.to_sql()).await;
        expected.as_ref().ok()?;
        let ours = self.ask(world, &pair.shape, query, pair.seed).await;
        let not_asked = Err("not asked".to_string());
        match judge(query, pair.shape.form, &world.tables, &ours, &expected, &not_asked) {
            Verdict::Difference(text) => Some(text),
            _ => None,
        }
    }
}

/// Runs a query as the statement that `form` says.
async fn answer(session: &mut Session, form: Form, query: &Query, seed: u64) -> Answer {
    let sql = query.to_sql();
    let table = format!("made_{seed}");
    match form {
        Form::Select => session.run(&sql).await,
        Form::Prepared => {
            let (sql, values) = query.with_parameters();
            session.run_prepared(&sql, &values).await
        }
        Form::CreateTableAs => {
            session.run(&format!("CREATE OR REPLACE TABLE {table} AS {sql}")).await?;
            session.run(&format!("SELECT * FROM {table}")).await
        }
        Form::Insert => {
            session.run(&format!("CREATE OR REPLACE TABLE {table} AS SELECT * FROM ({sql}) AS made LIMIT 0")).await?;
            session.run(&format!("INSERT INTO {table} {sql}")).await?;
            session.run(&format!("SELECT * FROM {table}")).await
        }
    }
}
