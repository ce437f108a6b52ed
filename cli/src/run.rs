//! What the subcommands do.

use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use covey_engine::signals::terminated;

use crate::args::{Cli, Command, Connection, Display};
use crate::client::{Answer, Client};
use crate::collect::collect;
use crate::embedded::Embedded;
use crate::plot::plot;
use crate::prompt::prompt;
use crate::script::{split, substitute};
use crate::{output, progress};

/// What a shell expects of a program that Ctrl-C has ended, and of one that SIGTERM has.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Why a statement gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Error(String),
    Interrupted,
    Terminated,
    /// Nobody reads the output any more.
    Unread,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(message) => f.write_str(message),
            Self::Interrupted | Self::Terminated => f.write_str("cancelled"),
            Self::Unread => f.write_str("the output is closed"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Error(format!("the output cannot be written: {error}")),
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Error(message)
    }
}

/// Runs the command of this process.
pub async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { file, variables, connection, display } => {
            with_session(&connection, &display, async |session| run_file(session, &file, &variables, &display).await)
                .await
        }
        Command::Sql { statement: None, commands, connection, display } if commands.is_empty() => {
            with_session(&connection, &display, async |session| prompt(session, &display).await).await
        }
        Command::Sql { statement, commands, connection, display } => {
            with_session(&connection, &display, async |session| {
                for sql in statement.iter().chain(&commands) {
                    for statement in split(sql)? {
                        session.execute(&statement.sql, &display).await?;
                    }
                }
                Ok(())
            })
            .await
        }
        Command::Plot { picture, model, out, connection, display } => {
            with_session(&connection, &display, async |session| plot(session, picture, &model, out.as_deref()).await)
                .await
        }
        Command::Collect { to, storage } => match collect(&to, &storage).await {
            Ok(written) => {
                println!("{written}");
                Ok(())
            }
            Err(message) => Err(Failure::Error(message)),
        },
    };
    match result {
        // Who looks at the first rows only, as `head` does, has what was asked for.
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(failure) => {
            let (prefix, code) = match failure {
                Failure::Error(_) | Failure::Unread => ("error: ", ExitCode::FAILURE),
                Failure::Interrupted => ("", ExitCode::from(INTERRUPTED)),
                Failure::Terminated => ("", ExitCode::from(TERMINATED)),
            };
            eprintln!("{prefix}{failure}");
            code
        }
    }
}

/// A connection to a scheduler, to send statements and to ask for their progress.
#[derive(Debug)]
pub struct Session {
    client: Client,
    url: String,
}

/// Connects, or starts a cluster and connects to it, and stops it in the end, also when this process is told to end.
async fn with_session(
    connection: &Connection,
    display: &Display,
    work: impl AsyncFnOnce(&Session) -> Result<(), Failure>,
) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(display.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let embedded = match connection.scheduler {
        Some(_) => None,
        None => Some(Embedded::start(connection).await?),
    };
    let url = match (&connection.scheduler, &embedded) {
        (Some(url), _) => url.clone(),
        (None, Some(embedded)) => embedded.url().to_string(),
        (None, None) => unreachable!("one of the two was just made"),
    };
    let working = async {
        match Client::connect(&url).await {
            Ok(client) => work(&Session { client, url }).await,
            Err(message) => Err(Failure::Error(message)),
        }
    };
    let result = tokio::select! {
        result = working => result,
        () = terminated() => Err(Failure::Terminated),
    };
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    result
}

impl Session {
    /// The rows of a statement.
    pub async fn query(&self, sql: &str) -> Result<Answer, Failure> {
        tokio::select! {
            answer = self.client.execute(sql) => Ok(answer?),
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    }

    /// Runs a statement, shows its progress and its rows, and says how many there were. Ctrl-C cancels it.
    pub async fn execute(&self, sql: &str, display: &Display) -> Result<usize, Failure> {
        let showing = async {
            if progress::is_wanted(display.quiet) {
                progress::show(&self.url, sql).await;
            }
            std::future::pending::<()>().await
        };
        let answer = tokio::select! {
            answer = self.client.execute(sql) => answer?,
            _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
            () = showing => return Err(Failure::Interrupted),
        };
        let text = output::render(&answer, display.format)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        out.flush()?;
        Ok(answer.rows())
    }
}

/// Runs the statements of a file, up to the first that fails.
pub async fn run_file(session: &Session, file: &Path, variables: &[String], display: &Display) -> Result<(), Failure> {
    let name = file.display();
    let script = read(file).map_err(|e| format!("{name}: {e}"))?;
    // Some editors begin a file with this mark.
    let script = script.strip_prefix('\u{feff}').unwrap_or(&script);
    let script = substitute(script, variables).map_err(|e| format!("{name}: {e}"))?;
    for (i, statement) in split(&script).map_err(|e| format!("{name}: {e}"))?.iter().enumerate() {
        session.execute(&statement.sql, display).await.map_err(|failure| match failure {
            Failure::Error(message) => {
                let (message, line) = statement.in_script(&message);
                Failure::Error(format!("{name}:{line}: statement {}: {message}", i + 1))
            }
            other => other,
        })?;
    }
    Ok(())
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        let mut script = String::new();
        std::io::stdin().read_to_string(&mut script)?;
        return Ok(script);
    }
    std::fs::read_to_string(file)
}
