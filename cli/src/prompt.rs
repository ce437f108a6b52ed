//! The prompt: statements over several lines, history, and commands that begin with a backslash.

use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::{Display, Format};
use crate::run::{Failure, Session, run_file};
use crate::script::{is_complete, split};

const HELP: &str = "\
Statements end with ';'. Ctrl-C cancels a statement, Ctrl-D or \\q leaves.
  \\d           tables           \\d NAME     columns of a table
  \\dm          models           \\j          running and past statements
  \\i FILE      run a file       \\timing     show times on or off
  \\x           a line for each value on or off
  \\?           this help        \\q          leave";

/// Reads and runs statements until the end of input. Where no person types them, nothing but their rows is written,
/// and the first that fails is the last.
pub async fn prompt(session: &Session, display: &Display) -> Result<(), Failure> {
    let mut input = Input::open()?;
    let (display, timing) = (display.clone(), input.is_terminal());
    let mut prompt = Prompt { session, display, timing, pending: String::new() };
    if input.is_terminal() {
        println!("covey {}; \\? for help", env!("CARGO_PKG_VERSION"));
    }
    loop {
        let (next, line) = input.line(if prompt.pending.is_empty() { "covey> " } else { "  ...> " }).await?;
        input = next;
        let entry = match line {
            Line::Text(line) => prompt.take(&line),
            Line::Interrupted => {
                prompt.pending.clear();
                None
            }
            Line::End => Some(Entry::Last(std::mem::take(&mut prompt.pending))),
        };
        let Some(entry) = entry else { continue };
        input.remember(entry.text());
        match prompt.run(&entry).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(failure @ Failure::Error(_)) if input.is_terminal() => eprintln!("error: {failure}"),
            Err(Failure::Interrupted) if input.is_terminal() => eprintln!("cancelled"),
            Err(failure) => return Err(failure),
        }
    }
}

/// What was typed, once it is whole.
enum Entry {
    Command(String),
    Statements(String),
    /// What was there at the end of input.
    Last(String),
}

impl Entry {
    fn text(&self) -> &str {
        match self {
            Self::Command(text) | Self::Statements(text) | Self::Last(text) => text.trim(),
        }
    }
}

/// Where lines come from.
enum Input {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Pipe,
}

enum Line {
    Text(String),
    /// Ctrl-C on a line.
    Interrupted,
    End,
}

impl Input {
    fn open() -> Result<Self, String> {
        if !stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let mut editor = Box::new(DefaultEditor::new().map_err(|e| e.to_string())?);
        let history = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".covey_history"));
        if let Some(history) = &history {
            // There is none at first.
            let _ = editor.load_history(history);
        }
        Ok(Self::Terminal { editor, history })
    }

    /// Puts what was entered into the history, whole, and the history into its file: a terminal may be closed at any
    /// time.
    fn remember(&mut self, text: &str) {
        if let Self::Terminal { editor, history } = self
            && !text.is_empty()
            && editor.add_history_entry(text).unwrap_or(false)
            && let Some(history) = history
            // A prompt without its history is better than none.
            && let Err(error) = editor.append_history(history)
        {
            tracing::debug!(target: "covey", %error, "the history was not saved");
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next line, read on a thread of its own: the process can be told to end while it waits.
    async fn line(mut self, mark: &'static str) -> Result<(Self, Line), String> {
        let reading = tokio::task::spawn_blocking(move || {
            let line = match &mut self {
                Self::Pipe => {
                    let mut line = String::new();
                    stdin().read_line(&mut line).map(|bytes| if bytes == 0 { Line::End } else { Line::Text(line) })
                }
                Self::Terminal { editor, .. } => match editor.readline(mark) {
                    Ok(line) => Ok(Line::Text(line)),
                    Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                    Err(_) => Ok(Line::End),
                },
            };
            line.map(|line| (self, line)).map_err(|e| format!("standard input: {e}"))
        });
        reading.await.map_err(|e| e.to_string())?
    }
}

struct Prompt<'a> {
    session: &'a Session,
    display: Display,
    timing: bool,
    /// Lines of a statement that has not ended.
    pending: String,
}

/// What people type who know other prompts.
const WORDS: [(&str, &str); 3] = [("quit", "\\q"), ("exit", "\\q"), ("help", "\\?")];

impl Prompt<'_> {
    /// Takes one line, and gives what is whole with it.
    fn take(&mut self, line: &str) -> Option<Entry> {
        let command = line.trim();
        if command.starts_with('\\') && (self.pending.is_empty() || command == "\\q") {
            return Some(Entry::Command(command.to_string()));
        }
        let word = command.trim_end_matches(';');
        if self.pending.is_empty()
            && let Some((_, meaning)) = WORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name))
        {
            return Some(Entry::Command(meaning.to_string()));
        }
        self.pending.push_str(line.trim_end_matches('\n'));
        self.pending.push('\n');
        is_complete(&self.pending).then(|| Entry::Statements(std::mem::take(&mut self.pending)))
    }

    /// False when the entry says to leave.
    async fn run(&mut self, entry: &Entry) -> Result<bool, Failure> {
        match entry {
            Entry::Command(command) => self.command(command).await,
            Entry::Statements(text) => self.statements(text).await.map(|()| true),
            Entry::Last(text) => self.statements(text).await.map(|()| false),
        }
    }

    async fn statements(&self, text: &str) -> Result<(), Failure> {
        for statement in split(text)? {
            let began = Instant::now();
            let rows = self.session.execute(&statement.sql, &self.display).await?;
            if self.timing {
                let rows = if rows == 1 { "1 row".to_string() } else { format!("{rows} rows") };
                println!("{rows} in {:.3} s", began.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    /// Runs a backslash command; false when it says to leave.
    async fn command(&mut self, line: &str) -> Result<bool, Failure> {
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim().trim_end_matches(';');
        let sql = match (name, argument) {
            ("\\q", _) => return Ok(false),
            ("\\?" | "\\h", _) => {
                println!("{HELP}");
                return Ok(true);
            }
            ("\\timing", _) => {
                self.timing = !self.timing;
                println!("timing is {}", if self.timing { "on" } else { "off" });
                return Ok(true);
            }
            ("\\x", _) => {
                let is_on = self.display.format == Format::Expanded;
                self.display.format = if is_on { Format::Table } else { Format::Expanded };
                println!("a line for each value is {}", if is_on { "off" } else { "on" });
                return Ok(true);
            }
            ("\\i", "") => return Err(Failure::Error("\\i needs the name of a file".into())),
            ("\\i", file) => {
                run_file(self.session, Path::new(file), &[], &self.display).await?;
                return Ok(true);
            }
            ("\\d" | "\\dt", "") => "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                            WHERE table_schema <> 'information_schema' ORDER BY 1, 2"
                .to_string(),
            ("\\d", table) => format!("DESCRIBE {table}"),
            ("\\dm", _) => "SHOW MODELS".to_string(),
            ("\\j", _) => {
                "SELECT job_id, state, stage, iteration, rows, elapsed_ms, statement FROM covey_jobs()".to_string()
            }
            _ => return Err(Failure::Error(format!("there is no command {name}; \\? lists them"))),
        };
        self.session.execute(&sql, &self.display).await?;
        Ok(true)
    }
}
