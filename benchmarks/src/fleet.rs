//! A simulated fleet of Linux systems that upload their process lists once a day: a lake of any size, the same for
//! the same arguments, written in bounded memory.
//!
//! A system has a fixed list of processes, drawn from its number: kernel threads, a base that nearly every system
//! runs (one way of starting each of its applications), a role with many workers, a few side applications, and some
//! ad-hoc commands that change from day to day. The configuration of a process stays as it is; pids and ids change
//! when it is restarted. Each system is seen once a week.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{Datelike, Days, NaiveDate};
use clap::Args;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;

use crate::template::{KERNEL, Template, all};
use covey_tests::Random;

/// Processes of a system on average; decides how many systems make the rows.
const PROCESSES_PER_SYSTEM: u64 = 64;

/// A process runs so many days between restarts.
const DAYS_BETWEEN_RESTARTS: u64 = 20;

/// Kernel threads of a system that are listed.
const KERNEL_THREADS: u64 = 4;

/// A system uploads once in so many days.
const DAYS_BETWEEN_UPLOADS: u64 = 7;

/// Applications that are the role of some system; of the others some run beside it.
const ROLES: usize = 48;

/// Workers of a role on one system.
const ROLE_PROCESSES: u64 = 32;

/// What nearly every system runs.
const BASE: [&str; 8] = ["systemd", "sshd", "cron", "dbus", "rsyslog", "getty", "chrony", "polkit"];

/// Command lines that are buffered before they are written.
const BATCH_ROWS: usize = 1 << 16;

/// Make a lake of a simulated fleet.
#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    /// The lake's directory; it must not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// A Parquet file for the truth: every distinct command and its application.
    #[arg(long)]
    pub truth: Option<PathBuf>,
    #[arg(long, default_value_t = 200_000)]
    pub rows: u64,
    #[arg(long, default_value_t = 62)]
    pub days: u64,
    /// The first day.
    #[arg(long, default_value = "2019-07-01")]
    pub start: NaiveDate,
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Directories as 2019/07/01 instead of year=2019/month=07/day=01.
    #[arg(long)]
    pub plain: bool,
}

/// A process of a system: which template, and the number that makes its configuration.
struct Process<'a> {
    template: &'a Template,
    number: u64,
}

/// Writes the lake and says what was written.
///
/// # Errors
/// When a file cannot be written, or the arguments make no lake.
pub fn write(args: &FleetArgs) -> Result<String, String> {
    if args.rows == 0 || args.days == 0 {
        return Err("--rows and --days must be at least 1".into());
    }
    if args.out.exists() {
        return Err(format!("{} exists; remove it or choose another --out", args.out.display()));
    }
    let fleet = Fleet::new(args)?;
    let mut truth = args.truth.as_deref().map(Truth::create).transpose()?;
    let mut written = 0;
    for day in 0..args.days {
        let until = args.rows * (day + 1) / args.days;
        fleet.write_day(day, until - written, truth.as_mut())?;
        written = until;
    }
    let distinct = truth.map(Truth::finish).transpose()?;
    let distinct = distinct.map_or_else(String::new, |n| format!(", {n} distinct commands"));
    Ok(format!(
        "{written} rows of {} systems over {} days{distinct} in {}",
        fleet.systems,
        args.days,
        args.out.display()
    ))
}

struct Fleet<'a> {
    args: &'a FleetArgs,
    templates: Vec<Template>,
    apps: Vec<String>,
    systems: u64,
    schema: SchemaRef,
}

impl<'a> Fleet<'a> {
    fn new(args: &'a FleetArgs) -> Result<Self, String> {
        let templates = all()?;
        let mut apps: Vec<String> = vec![];
        for app in templates.iter().filter_map(|template| template.app.clone()) {
            if app != KERNEL && !BASE.contains(&app.as_str()) && !apps.contains(&app) {
                apps.push(app);
            }
        }
        let mut random = Random::of(&[args.seed, 7]);
        for i in (1..apps.len()).rev() {
            apps.swap(i, random.below(i as u64 + 1) as usize);
        }
        let fields = ["attachment_id", "system_id", "process_command"];
        let schema = Arc::new(Schema::new(fields.map(|name| Field::new(name, DataType::Utf8, true)).to_vec()));
        let systems = (args.rows * DAYS_BETWEEN_UPLOADS / args.days / PROCESSES_PER_SYSTEM).max(DAYS_BETWEEN_UPLOADS);
        Ok(Self { args, templates, apps, systems, schema })
    }

    fn write_day(&self, day: u64, rows: u64, mut truth: Option<&mut Truth>) -> Result<(), String> {
        let mut file = DayFile::create(&self.path(day)?, &self.schema)?;
        let mut left = rows;
        let today = (0..self.systems).filter(|system| system % DAYS_BETWEEN_UPLOADS == day % DAYS_BETWEEN_UPLOADS);
        // More rows than the systems of today have processes: some upload again.
        for (upload, system) in (0..).zip(today.cycle()) {
            if left == 0 {
                break;
            }
            let ids = (self.id(&[1, system, day, upload]), self.id(&[2, system]));
            for (app, command) in self.commands(system, day, upload) {
                if left == 0 {
                    break;
                }
                if let Some(truth) = truth.as_deref_mut() {
                    truth.add(&command, app)?;
                }
                file.add(&ids.0, &ids.1, &command)?;
                left -= 1;
            }
        }
        file.finish()
    }

    fn path(&self, day: u64) -> Result<PathBuf, String> {
        let date =
            self.args.start.checked_add_days(Days::new(day)).ok_or("--start and --days go beyond the calendar")?;
        let (y, m, d) = (date.year(), date.month(), date.day());
        let directory =
            if self.args.plain { format!("{y}/{m:02}/{d:02}") } else { format!("year={y}/month={m:02}/day={d:02}") };
        let directory = self.args.out.join(directory);
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok(directory.join("part-00000.parquet"))
    }

    fn id(&self, parts: &[u64]) -> String {
        let mut random = Random::of(&[&[self.args.seed], parts].concat());
        let (a, b) = (random.number(), random.number());
        uuid::Builder::from_random_bytes(((u128::from(a) << 64) | u128::from(b)).to_be_bytes()).into_uuid().to_string()
    }

    /// The command lines of one upload.
    fn commands(&self, system: u64, day: u64, again: u64) -> Vec<(Option<&str>, String)> {
        let mut commands: Vec<(Option<&str>, String)> = self
            .processes(system)
            .into_iter()
            .map(|process| {
                let era = (day + process.number % DAYS_BETWEEN_RESTARTS) / DAYS_BETWEEN_RESTARTS;
                let mut configured = Random::of(&[self.args.seed, 3, system, process.number]);
                let mut started = Random::of(&[self.args.seed, 4, system, process.number, era]);
                (process.template.app.as_deref(), process.template.fill(&mut configured, &mut started))
            })
            .collect();
        let mut random = Random::of(&[self.args.seed, 5, system, day, again]);
        let junk: Vec<&Template> = self.templates.iter().filter(|template| template.app.is_none()).collect();
        for _ in 0..random.below(5) {
            let template = random.pick(&junk);
            commands.push((None, template.fill(&mut random.clone(), &mut random)));
        }
        commands
    }

    /// The fixed processes of a system.
    fn processes(&self, system: u64) -> Vec<Process<'_>> {
        let mut random = Random::of(&[self.args.seed, 6, system]);
        let mut processes = vec![];
        let kernel: Vec<&Template> = self.templates.iter().filter(|template| template.is_kernel()).collect();
        for _ in 0..KERNEL_THREADS {
            let template = random.pick(&kernel);
            processes.push(Process { template, number: random.number() });
        }
        for app in BASE {
            let template = *random.pick(&self.of(app));
            if random.chance(80) {
                processes.push(Process { template, number: random.number() });
            }
        }
        // The first roles are the most common ones.
        let role = random.below(ROLES as u64).min(random.below(ROLES as u64)) as usize;
        self.add_workers(&self.apps[role], ROLE_PROCESSES, &mut random, &mut processes);
        for _ in 0..1 + random.below(3) {
            let side = random.pick(&self.apps).clone();
            self.add_workers(&side, 3, &mut random, &mut processes);
        }
        processes
    }

    fn of(&self, app: &str) -> Vec<&Template> {
        self.templates.iter().filter(|template| template.app.as_deref() == Some(app)).collect()
    }

    /// `n` processes of an application, of its ways to be started the heavier ones more often; those of one way
    /// share a few configurations.
    fn add_workers<'t>(&'t self, app: &str, n: u64, random: &mut Random, processes: &mut Vec<Process<'t>>) {
        let templates = self.of(app);
        let total: u64 = templates.iter().map(|template| template.weight).sum();
        for _ in 0..n {
            let mut at = random.below(total);
            let chosen = templates.iter().find(|template| {
                let found = at < template.weight;
                at = at.saturating_sub(template.weight);
                found
            });
            processes.extend(chosen.map(|template| Process { template, number: random.number() }));
        }
    }
}

/// One day's file of the lake.
struct DayFile {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    columns: [StringBuilder; 3],
    pending: usize,
    path: PathBuf,
}

impl DayFile {
    fn create(path: &Path, schema: &SchemaRef) -> Result<Self, String> {
        Ok(Self {
            writer: writer(path, schema)?,
            schema: Arc::clone(schema),
            columns: Default::default(),
            pending: 0,
            path: path.to_path_buf(),
        })
    }

    fn add(&mut self, attachment: &str, system: &str, command: &str) -> Result<(), String> {
        for (column, value) in self.columns.iter_mut().zip([attachment, system, command]) {
            column.append_value(value);
        }
        self.pending += 1;
        if self.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), String> {
        let columns = self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        self.pending = 0;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|e| e.to_string())?;
        self.writer.write(&batch).map_err(|e| format!("{}: {e}", self.path.display()))
    }

    fn finish(mut self) -> Result<(), String> {
        self.flush()?;
        self.writer.close().map(|_| ()).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}

fn writer(path: &Path, schema: &SchemaRef) -> Result<ArrowWriter<File>, String> {
    let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let level = ZstdLevel::try_new(9).map_err(|e| e.to_string())?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    ArrowWriter::try_new(file, Arc::clone(schema), Some(properties)).map_err(|e| format!("{}: {e}", path.display()))
}

/// The file of the truth: each distinct command once. What was written is remembered as 8 bytes a command.
struct Truth {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    seen: HashSet<u64>,
    commands: StringBuilder,
    apps: StringBuilder,
    pending: usize,
}

impl Truth {
    fn create(path: &Path) -> Result<Self, String> {
        let field = |name| Field::new(name, DataType::Utf8, true);
        let schema = Arc::new(Schema::new(vec![field("process_command"), field("app")]));
        Ok(Self {
            writer: writer(path, &schema)?,
            schema,
            seen: HashSet::new(),
            commands: StringBuilder::new(),
            apps: StringBuilder::new(),
            pending: 0,
        })
    }

    fn add(&mut self, command: &str, app: Option<&str>) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        command.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Ok(());
        }
        self.commands.append_value(command);
        self.apps.append_option(app);
        self.pending += 1;
        if self.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), String> {
        let (commands, apps): (StringArray, StringArray) = (self.commands.finish(), self.apps.finish());
        self.pending = 0;
        let columns: Vec<ArrayRef> = vec![Arc::new(commands), Arc::new(apps)];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|e| e.to_string())?;
        self.writer.write(&batch).map_err(|e| e.to_string())
    }

    fn finish(mut self) -> Result<usize, String> {
        self.flush()?;
        self.writer.close().map_err(|e| e.to_string())?;
        Ok(self.seen.len())
    }
}
