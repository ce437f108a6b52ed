//! A real PostgreSQL, as Debian has it.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::s3::free_ports;
use crate::sandbox::{Process, wait_until};

const USER: &str = "covey";
pub const PASSWORD: &str = "db-hidden";

/// A running server with an empty database `crm`, whose log has every statement that it was asked.
#[derive(Debug)]
pub struct Postgres {
    server: Process,
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    pub url: String,
}

impl Postgres {
    pub async fn start() -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Its programs refuse to work for root.
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("root gives folders away");
        }
        let as_user = |mut command: Command| {
            if let Some((uid, gid)) = user {
                command.gid(gid).uid(uid);
            }
            command.current_dir(folder.path());
            command
        };
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("a temporary folder takes files");
        let data = folder.path().join("data");
        let mut init = as_user(Command::new(programs.join("initdb")));
        init.args(["-U", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        init.arg(format!("--pwfile={}", password.display())).arg("-D").arg(&data);
        let output = init.output().expect("initdb starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let port = free_ports(1)[0];
        let mut serve = as_user(Command::new(programs.join("postgres")));
        serve.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        serve.args(["-c", "unix_socket_directories=", "-c", "log_statement=all", "-c", "fsync=off"]);
        let server = Process::start(&mut serve, &folder.path().join("log"));
        let url = format!("postgres://127.0.0.1:{port}/crm");
        let postgres = Self { server, folder, programs, port, url };
        let is_ready = async || postgres.try_sql("postgres", "SELECT 1").is_ok();
        wait_until("PostgreSQL starts", is_ready).await;
        postgres.try_sql("postgres", "CREATE DATABASE crm").expect("a new server takes a database");
        postgres
    }

    /// Runs statements by its own client.
    pub fn sql(&self, sql: &str) {
        self.try_sql("crm", sql).unwrap_or_else(|message| panic!("{sql}\n{message}"));
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<(), String> {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-d", database]);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGPASSWORD", PASSWORD);
        let output = command.output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// What it has written, statements included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Settings by which processes of Covey find it.
    pub fn settings(&self, folder: &Path, password: &str) -> (&'static str, String) {
        let text = format!(
            "[[database]]\nscope = 'postgres://127.0.0.1:{}'\nuser = '{USER}'\npassword = '{password}'\nsslmode = 'disable'\n",
            self.port
        );
        let file = folder.join("covey.toml");
        std::fs::write(&file, text).expect("a temporary folder takes files");
        ("COVEY_CONFIG", file.display().to_string())
    }

    pub fn stop(&mut self) {
        self.server.kill();
    }
}

/// The folder of the newest version that is installed.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |version: &PathBuf| version.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|version| version.path()).max_by_key(number);
    newest.expect("tests/run installs PostgreSQL").join("bin")
}

/// The user and group `nobody` for root, who may not run the server; `None` for others.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().expect("id starts");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("an id is a number")
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "nobody"]), id(&["-g", "nobody"])))
}
