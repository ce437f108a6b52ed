//! The prompt: statements over several lines, history, and commands that begin with a backslash.

use std::path::PathBuf;
use std::time::Instant;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::Display;
use crate::run::{Session, run_file};
use crate::script::split;

const HELP: &str = "\
Statements end with ';'. Ctrl-C cancels a statement, Ctrl-D or \\q leaves.
  \\d           tables           \\d NAME     columns of a table
  \\dm          models           \\j          running and past statements
  \\i FILE      run a file       \\timing     show times on or off
  \\?           this help        \\q          leave";

/// Reads and runs statements until the end of input.
pub async fn prompt(session: &Session, display: &Display) -> Result<(), String> {
    let mut editor = DefaultEditor::new().map_err(|e| e.to_string())?;
    let history = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".covey_history"));
    if let Some(history) = &history {
        // There is none at first.
        let _ = editor.load_history(history);
    }
    println!("covey {}; \\? for help", env!("CARGO_PKG_VERSION"));
    let mut timing = true;
    let mut pending = String::new();
    loop {
        let mark = if pending.is_empty() { "covey> " } else { "  ...> " };
        match editor.readline(mark) {
            Ok(line) => {
                if pending.is_empty() && line.trim_start().starts_with('\\') {
                    let _ = editor.add_history_entry(line.trim());
                    if !command(session, display, line.trim(), &mut timing).await {
                        break;
                    }
                    continue;
                }
                pending.push_str(&line);
                pending.push('\n');
                if is_complete(&pending) {
                    let _ = editor.add_history_entry(pending.trim());
                    run_all(session, display, &pending, timing).await;
                    pending.clear();
                }
            }
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(_) => break,
        }
    }
    if let Some(history) = &history {
        let _ = editor.save_history(history);
    }
    Ok(())
}

/// Whether the text ends with a semicolon outside of quotes and comments.
fn is_complete(text: &str) -> bool {
    // An open quote or comment is an error here: more lines will close it.
    split(text).is_ok() && (text.trim_end().ends_with(';') || text.trim().is_empty())
}

async fn run_all(session: &Session, display: &Display, text: &str, timing: bool) {
    let statements = match split(text) {
        Ok(statements) => statements,
        Err(message) => return eprintln!("error: {message}"),
    };
    for statement in statements {
        let began = Instant::now();
        match session.execute(&statement.sql, display).await {
            Ok(rows) if timing => println!("{rows} rows in {:.3} s", began.elapsed().as_secs_f64()),
            Ok(_) => {}
            Err(failure) => return eprintln!("error: {failure}"),
        }
    }
}

/// Runs a backslash command; false when it says to leave.
async fn command(session: &Session, display: &Display, line: &str, timing: &mut bool) -> bool {
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim().trim_end_matches(';');
    let quoted = argument.replace('\'', "''");
    let sql = match (name, argument) {
        ("\\q", _) => return false,
        ("\\?" | "\\h", _) => {
            println!("{HELP}");
            return true;
        }
        ("\\timing", _) => {
            *timing = !*timing;
            println!("timing is {}", if *timing { "on" } else { "off" });
            return true;
        }
        ("\\i", file) => {
            if let Err(failure) = run_file(session, std::path::Path::new(file), &[], display).await {
                eprintln!("{failure}");
            }
            return true;
        }
        ("\\d", "") => "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                        WHERE table_schema <> 'information_schema' ORDER BY 1, 2"
            .to_string(),
        ("\\d", _) => format!(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns \
             WHERE table_name = '{quoted}' ORDER BY ordinal_position"
        ),
        ("\\dm", _) => "SHOW MODELS".to_string(),
        ("\\j", _) => {
            "SELECT job_id, state, stage, iteration, rows, elapsed_ms, statement FROM covey_jobs()".to_string()
        }
        _ => {
            eprintln!("error: there is no command {name}; \\? lists them");
            return true;
        }
    };
    run_all(session, display, &sql, false).await;
    true
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
