//! A file of SQL cut into statements, each with the line that it begins on.

use covey_jobs::byte_offset;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Where it begins, counted from 1.
    pub line: u64,
    pub column: u64,
    pub sql: String,
}

/// How messages tell a place in a statement, by the parser and by our own statements.
const PLACES: [(&str, &str); 2] = [("at Line: ", ", Column: "), ("at line ", ", column ")];

impl Statement {
    /// The message with the place that it tells as one in the script, and the line of that place, else the line that
    /// the statement begins on.
    pub fn in_script(&self, message: &str) -> (String, u64) {
        for (before_line, before_column) in PLACES {
            let Some((head, rest)) = message.split_once(before_line) else { continue };
            let Some((line, rest)) = rest.split_once(before_column) else { continue };
            let (column, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
            let (Ok(line), Ok(column)) = (line.parse::<u64>(), column.parse::<u64>()) else { continue };
            let column = if line == 1 { column + self.column - 1 } else { column };
            let line = line + self.line - 1;
            return (format!("{head}at line {line}, column {column}{tail}"), line);
        }
        (message.to_string(), self.line)
    }
}

/// Whether the text ends with a semicolon, comments aside, or says nothing. An open quote or comment has not ended.
pub fn is_complete(text: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return false };
    let last = tokens.iter().rfind(|token| !matches!(token, Token::Whitespace(_) | Token::EOF));
    matches!(last, None | Some(Token::SemiColon))
}

/// Cuts at semicolons outside of quotes and comments. Pieces without a statement are left out.
///
/// # Errors
/// When a quote or comment does not end: the message has line and column.
pub fn split(script: &str) -> Result<Vec<Statement>, String> {
    let tokens = Tokenizer::new(&GenericDialect {}, script).tokenize_with_location().map_err(|e| e.to_string())?;
    let mut statements = vec![];
    let mut first: Option<Location> = None;
    for token in tokens {
        match token.token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => {
                if let Some(start) = first.take() {
                    statements.push(statement(script, start, Some(token.span.start)));
                }
            }
            _ => {
                first.get_or_insert(token.span.start);
            }
        }
    }
    if let Some(start) = first {
        statements.push(statement(script, start, None));
    }
    Ok(statements)
}

fn statement(script: &str, start: Location, end: Option<Location>) -> Statement {
    let end = end.map_or(script.len(), |end| byte_offset(script, end));
    Statement {
        line: start.line,
        column: start.column,
        sql: script[byte_offset(script, start)..end].trim_end().to_string(),
    }
}

/// Replaces `${NAME}` by the value of `NAME=VALUE` in `variables`, else by its environment variable.
///
/// # Errors
/// When a variable has no value, or one given is no `NAME=VALUE`.
pub fn substitute(script: &str, variables: &[String]) -> Result<String, String> {
    let mut given = std::collections::HashMap::new();
    for variable in variables {
        let (name, value) =
            variable.split_once('=').ok_or_else(|| format!("--set takes NAME=VALUE, got {variable:?}"))?;
        given.insert(name, value.to_string());
    }
    let mut out = String::with_capacity(script.len());
    let mut rest = script;
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}') else { break };
        let expression = &rest[start + 2..start + end];
        let (name, default) = match expression.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (expression, None),
        };
        let value = given
            .get(name)
            .cloned()
            .or_else(|| std::env::var(name).ok())
            .or_else(|| default.map(String::from))
            .ok_or_else(|| format!("the script uses ${{{name}}}; give it with --set {name}=VALUE"))?;
        out.push_str(&rest[..start]);
        out.push_str(&value);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: statements are cut where SQL ends them, and nowhere else.
    #[test]
    fn cuts_at_semicolons() {
        let script = "-- first; not\nSELECT 'a;b';\n\n/* ; */ SELECT\n 2 ;;\nSELECT \"ü;\", 3";
        let found = split(script).unwrap();
        let expected = [(2, "SELECT 'a;b'"), (4, "SELECT\n 2"), (6, "SELECT \"ü;\", 3")];
        assert_eq!(found.iter().map(|s| (s.line, s.sql.as_str())).collect::<Vec<_>>(), expected);
        assert!(split("SELECT 'open").unwrap_err().contains("Line: 1"));
        assert!(split(" -- nothing\n").unwrap().is_empty());
    }

    /// Goal: a statement is sent when it is whole, not before.
    #[test]
    fn waits_for_the_end() {
        for whole in ["SELECT 1;\n", "SELECT ';\n';\n", "SELECT 1; -- note\n", "-- nothing\n", ""] {
            assert!(is_complete(whole), "{whole}");
        }
        for part in ["SELECT 1\n", "SELECT ';\n", "SELECT 1 -- ;\n", "SELECT 1 /* ;\n"] {
            assert!(!is_complete(part), "{part}");
        }
    }

    /// Goal: an error names the line of the script, not that of the statement.
    #[test]
    fn places_are_those_of_the_script() {
        let found = split("SELECT 1;\n  SELECT x\n  FRM t").unwrap();
        let (message, line) = found[1].in_script("Expected: end, found: t at Line: 2, Column: 7");
        assert_eq!((message.as_str(), line), ("Expected: end, found: t at line 3, column 7", 3));
        let (message, line) = found[1].in_script("expected x at line 1, column 3; the form is y");
        assert_eq!((message.as_str(), line), ("expected x at line 2, column 5; the form is y", 2));
        assert_eq!(found[1].in_script("no place"), ("no place".to_string(), 2));
    }

    /// Goal: variables come from the command line, then the environment, then their default.
    #[test]
    fn substitutes_variables() {
        let set = ["LAKE=s3://b/x".to_string()];
        assert_eq!(substitute("'${LAKE:-here}/${K:-50}'", &set).unwrap(), "'s3://b/x/50'");
        assert!(substitute("${NOT_SET_ANYWHERE}", &[]).unwrap_err().contains("--set NOT_SET_ANYWHERE"));
        assert!(substitute("", &["x".into()]).is_err());
    }
}
