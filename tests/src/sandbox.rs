//! Processes that are started, waited for by what they answer, and stopped by their pid.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use covey_cli::Client;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;

/// How long a process may take to answer or to end. Not a measurement: only a hang is longer.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The folder of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the project has a folder")
}

/// A binary of the project, which `cargo build` has put beside the tests' folder.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test runs from a file");
    // Tests are in a folder below the binaries; covey-bench is among them.
    let path = test.ancestors().skip(1).map(|folder| folder.join(name)).find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is not built: run cargo build --workspace, or tests/run"))
}

/// Runs the command `covey` to its end.
pub fn covey(arguments: &[&str]) -> Output {
    covey_command(arguments).stdin(Stdio::null()).output().expect("covey starts")
}

/// The command `covey`, not started yet.
pub fn covey_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("covey"));
    command.args(arguments);
    command
}

/// Waits until `check` is true.
pub async fn wait_until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A server process; killed when dropped, if it still runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command whose output goes to the end of `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log can be made");
        let child = command.stdin(Stdio::null()).stdout(open()).stderr(open()).spawn();
        Self { child: child.unwrap_or_else(|e| panic!("{command:?}: {e}")) }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the process to end, as a service manager does, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the process did not end on SIGTERM");
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    #[allow(unsafe_code, reason = "the standard library sends SIGKILL only")]
    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes two numbers; the pid is that of a child which was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One scheduler and its executors.
#[derive(Debug)]
pub struct Sandbox {
    pub scheduler: Process,
    pub executors: Vec<Process>,
    pub url: String,
    /// A folder for whatever the test needs; the warehouse is in it where nothing else is said.
    pub folder: tempfile::TempDir,
    warehouse: String,
    /// Variables of every process.
    environment: Vec<(String, String)>,
}

impl Sandbox {
    /// Starts a scheduler and `executors` executors of `vcores` tasks each, and waits until all have registered.
    pub async fn start(executors: usize, vcores: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let warehouse = folder.path().join("warehouse").to_string_lossy().into_owned();
        Self::start_at(folder, &warehouse, &[], executors, vcores).await
    }

    /// The same with a warehouse elsewhere, and variables for every process.
    pub async fn start_at(
        folder: tempfile::TempDir,
        warehouse: &str,
        environment: &[(&str, &str)],
        executors: usize,
        vcores: usize,
    ) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let scheduler = start_scheduler(0, warehouse, &environment, folder.path());
        let mut sandbox = Self {
            scheduler,
            executors: vec![],
            url: String::new(),
            folder,
            warehouse: warehouse.to_string(),
            environment,
        };
        sandbox.wait_for_log("scheduler.log", "scheduler ready", 1).await;
        sandbox.url = address(&sandbox.log("scheduler.log"));
        sandbox.client().await;
        for _ in 0..executors {
            sandbox.add_executor(vcores);
        }
        for i in 0..executors {
            sandbox.wait_for_log(&format!("executor-{i}.log"), "executor registered", 1).await;
        }
        sandbox
    }

    /// Starts the scheduler again, at the address that it had.
    pub async fn restart_scheduler(&mut self) {
        let port = self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("the URL has a port");
        self.scheduler = start_scheduler(port, &self.warehouse, &self.environment, self.folder.path());
        self.client().await;
    }

    pub fn add_executor(&mut self, vcores: usize) {
        self.add_executor_with(vcores, &[]);
    }

    /// The same with more arguments.
    pub fn add_executor_with(&mut self, vcores: usize, arguments: &[&str]) {
        let log = self.folder.path().join(format!("executor-{}.log", self.executors.len()));
        let mut command = Command::new(binary("covey-executor"));
        command.args(["--scheduler", &self.url, "--vcores", &vcores.to_string()]).args(arguments);
        command.envs(self.environment.iter().cloned());
        self.executors.push(Process::start(&mut command, &log));
    }

    /// Waits until a log has said `text` so many times.
    pub async fn wait_for_log(&self, log: &str, text: &str, times: usize) {
        let began = Instant::now();
        while self.log(log).matches(text).count() < times {
            assert!(began.elapsed() < PATIENCE, "{log} never said {text:?}:\n{}", self.log(log));
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub fn log(&self, log: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(log)).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A session of its own.
    pub async fn client(&self) -> Client {
        let began = Instant::now();
        loop {
            match Client::connect(&self.url).await {
                Ok(client) => return client,
                Err(e) => assert!(began.elapsed() < PATIENCE, "{e}\n{}", self.log("scheduler.log")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Runs a statement that must work.
    pub async fn sql(&self, sql: &str) -> Vec<RecordBatch> {
        match self.client().await.execute(sql).await {
            Ok(answer) => answer.batches,
            Err(e) => panic!("{sql}\n{e}\n{}", self.log("scheduler.log")),
        }
    }

    /// Runs a statement that must fail, and gives the message.
    pub async fn error(&self, sql: &str) -> String {
        match self.client().await.execute(sql).await {
            Ok(answer) => panic!("{sql} worked: {:?}", cells(&answer.batches)),
            Err(message) => message,
        }
    }

    /// Every process is still there.
    pub fn assert_alive(&mut self) {
        assert!(self.scheduler.is_running(), "the scheduler died:\n{}", self.log("scheduler.log"));
        for (i, executor) in self.executors.iter_mut().enumerate() {
            assert!(executor.is_running(), "executor {i} died");
        }
    }
}

fn start_scheduler(port: u16, warehouse: &str, environment: &[(String, String)], folder: &Path) -> Process {
    let mut command = Command::new(binary("covey-scheduler"));
    command.args(["--port", &port.to_string(), "--warehouse", warehouse]);
    command.envs(environment.iter().cloned());
    Process::start(&mut command, &folder.join("scheduler.log"))
}

/// The URL that a scheduler says it listens at. It chooses the port: one found free beforehand may be taken by then.
fn address(log: &str) -> String {
    let (_, rest) = log.split_once("address=").expect("the scheduler logs its address");
    rest.split_whitespace().next().expect("an address is no blank").to_string()
}

/// All values as text, row by row.
pub fn cells(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let cell = |batch: &RecordBatch, row: usize, column: usize| {
        array_value_to_string(batch.column(column), row).expect("a value has a text")
    };
    batches
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|column| cell(batch, row, column)).collect())
        })
        .collect()
}

/// The only value of a result.
pub fn cell(batches: &[RecordBatch]) -> String {
    let cells = cells(batches);
    match cells.as_slice() {
        [row] if row.len() == 1 => row[0].clone(),
        other => panic!("one value was expected: {other:?}"),
    }
}
