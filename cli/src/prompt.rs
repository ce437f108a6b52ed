//! The prompt: statements over several lines, history, and commands that begin with a backslash.

use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::Display;
use crate::run::{Failure, Session, run_file};
use crate::script::split;

const HELP: &str = "\
Statements end with ';'. Ctrl-C cancels a statement, Ctrl-D or \\q leaves.
  \\d           tables           \\d NAME     columns of a table
  \\dm          models           \\j          running and past statements
  \\i FILE      run a file       \\timing     show times on or off
  \\?           this help        \\q          leave";

/// Reads and runs statements until the end of input. Where no person types them, nothing but their rows is written,
/// and the first that fails is the last.
pub async fn prompt(session: &Session, display: &Display) -> Result<(), Failure> {
    let mut input = Input::open()?;
    let mut prompt = Prompt { session, display, timing: input.is_terminal(), pending: String::new() };
    if input.is_terminal() {
        println!("covey {}; \\? for help", env!("CARGO_PKG_VERSION"));
    }
    loop {
        let (next, line) = input.line(if prompt.pending.is_empty() { "covey> " } else { "  ...> " }).await?;
        input = next;
        let result = match line {
            Line::Text(line) => prompt.take(&line).await,
            Line::Interrupted => {
                prompt.pending.clear();
                continue;
            }
            Line::End => prompt.run_pending().await.map(|()| false),
        };
        match result {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(failure @ Failure::Error(_)) if input.is_terminal() => eprintln!("error: {failure}"),
            Err(Failure::Interrupted) if input.is_terminal() => eprintln!("cancelled"),
            Err(failure) => return Err(failure),
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
                    Ok(line) => {
                        let _ = editor.add_history_entry(line.trim());
                        Ok(Line::Text(line))
                    }
                    Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                    Err(_) => Ok(Line::End),
                },
            };
            line.map(|line| (self, line)).map_err(|e| format!("standard input: {e}"))
        });
        reading.await.map_err(|e| e.to_string())?
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Self::Terminal { editor, history: Some(history) } = self {
            let _ = editor.save_history(history);
        }
    }
}

struct Prompt<'a> {
    session: &'a Session,
    display: &'a Display,
    timing: bool,
    /// Lines of a statement that has not ended.
    pending: String,
}

impl Prompt<'_> {
    /// Takes one line; false when it says to leave.
    async fn take(&mut self, line: &str) -> Result<bool, Failure> {
        let command = line.trim();
        if command.starts_with('\\') && (self.pending.is_empty() || command == "\\q") {
            return self.command(command).await;
        }
        self.pending.push_str(line.trim_end_matches('\n'));
        self.pending.push('\n');
        if is_complete(&self.pending) {
            self.run_pending().await?;
        }
        Ok(true)
    }

    async fn run_pending(&mut self) -> Result<(), Failure> {
        let text = std::mem::take(&mut self.pending);
        for statement in split(&text)? {
            let began = Instant::now();
            let rows = self.session.execute(&statement.sql, self.display).await?;
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
            ("\\i", "") => return Err(Failure::Error("\\i needs the name of a file".into())),
            ("\\i", file) => {
                run_file(self.session, Path::new(file), &[], self.display).await?;
                return Ok(true);
            }
            ("\\d", "") => "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                            WHERE table_schema <> 'information_schema' ORDER BY 1, 2"
                .to_string(),
            ("\\d", table) => format!("DESCRIBE {table}"),
            ("\\dm", _) => "SHOW MODELS".to_string(),
            ("\\j", _) => {
                "SELECT job_id, state, stage, iteration, rows, elapsed_ms, statement FROM covey_jobs()".to_string()
            }
            _ => return Err(Failure::Error(format!("there is no command {name}; \\? lists them"))),
        };
        self.session.execute(&sql, self.display).await?;
        Ok(true)
    }
}

/// Whether the text ends with a semicolon outside of quotes and comments.
fn is_complete(text: &str) -> bool {
    // An open quote or comment is an error here: more lines will close it.
    split(text).is_ok() && (text.trim_end().ends_with(';') || text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    /// Goal: a statement is sent when it is whole, not before.
    #[test]
    fn waits_for_the_end() {
        assert!(is_complete("SELECT 1;\n"));
        assert!(!is_complete("SELECT 1\n"));
        assert!(!is_complete("SELECT ';\n"));
        assert!(is_complete("SELECT ';\n';\n"));
    }
}
