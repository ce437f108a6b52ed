//! What is looked at in the text of a statement before it is parsed.

use std::borrow::Cow;

use covey_engine::user_err;
use datafusion::error::Result;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

/// Operators that may follow each other in one expression, and set operations and joins in one statement. The planner
/// works on a chain of them by recursion, and a stack that runs out ends the process.
pub const CHAIN_MAX: usize = 4_000;

/// Words that make the plan of a statement one level deeper, wherever they are.
const PLAN_WORDS: [&str; 4] = ["UNION", "EXCEPT", "INTERSECT", "JOIN"];

/// Words that make an expression one level deeper.
const OPERATOR_WORDS: [&str; 3] = ["AND", "OR", "NOT"];

/// # Errors
/// When a chain of operators, joins or set operations is longer than [`CHAIN_MAX`].
pub fn check_depth(sql: &str) -> Result<()> {
    let (mut plan, mut longest) = (0, 0);
    // The operators so far in the expression at each level of parentheses; a comma begins another expression.
    let mut levels = vec![0_usize];
    for token in tokens(sql) {
        match &token.token {
            Token::LParen => levels.push(levels.last().copied().unwrap_or(0)),
            Token::RParen if levels.len() > 1 => {
                levels.pop();
            }
            Token::Comma => {
                let outer = levels.len().checked_sub(2).map_or(0, |i| levels[i]);
                levels.pop();
                levels.push(outer);
            }
            Token::Word(word) if is_one_of(word, &PLAN_WORDS) => plan += 1,
            Token::Word(word) if is_one_of(word, &OPERATOR_WORDS) => deepen(&mut levels),
            token if is_operator(token) => deepen(&mut levels),
            _ => {}
        }
        longest = longest.max(plan).max(levels.last().copied().unwrap_or(0));
    }
    if longest > CHAIN_MAX {
        return user_err!(
            "the statement chains over {CHAIN_MAX} operators, joins or set operations: use IN (...), a table of values and a join, or several statements"
        );
    }
    Ok(())
}

fn deepen(levels: &mut [usize]) {
    if let Some(level) = levels.last_mut() {
        *level += 1;
    }
}

fn is_one_of(word: &Word, words: &[&str]) -> bool {
    word.quote_style.is_none() && words.iter().any(|other| word.value.eq_ignore_ascii_case(other))
}

fn is_operator(token: &Token) -> bool {
    matches!(
        token,
        Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod
            | Token::StringConcat
            | Token::Pipe
            | Token::Ampersand
            | Token::Caret
            | Token::DoubleColon
    )
}

/// Quotes `cluster` where it is the name of a column. The parser takes it for the start of CLUSTER BY and ends a list
/// of columns before it; our functions give a column of that name.
pub fn quote_cluster(sql: &str) -> Cow<'_, str> {
    let tokens: Vec<TokenWithSpan> =
        tokens(sql).into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let is = |i: Option<usize>, expected: &str| {
        let token = i.and_then(|i| tokens.get(i)).map(|token| &token.token);
        matches!(token, Some(Token::Word(word)) if is_one_of(word, &[expected]))
    };
    let mut quoted = String::new();
    let mut copied = 0;
    for (i, token) in tokens.iter().enumerate() {
        if is(Some(i), "CLUSTER") && !is(Some(i + 1), "BY") && !is(i.checked_sub(1), "FOR") {
            let (start, end) = (byte_offset(sql, token.span.start), byte_offset(sql, token.span.end));
            quoted.push_str(&sql[copied..start]);
            quoted.push_str("\"cluster\"");
            copied = end;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(sql);
    }
    quoted.push_str(&sql[copied..]);
    Cow::Owned(quoted)
}

/// The tokens of a statement; none where it has no tokens, and the parser will say why.
fn tokens(sql: &str) -> Vec<TokenWithSpan> {
    Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default()
}

/// The byte of a line and column, both counted from 1, columns in characters.
pub fn byte_offset(text: &str, at: Location) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(at.line as usize - 1).map(str::len).sum();
    let column = at.column as usize - 1;
    text[line_start..].char_indices().nth(column).map_or(text.len(), |(byte, _)| line_start + byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: chains that would exhaust a stack are refused, long lists are not.
    #[test]
    fn long_chains_are_refused() {
        let chain = |n: usize, operator: &str, start: &str, item: &str| {
            format!("{start}{}", format!("{operator}{item}").repeat(n))
        };
        assert!(check_depth(&chain(CHAIN_MAX, "+", "SELECT 1", "1")).is_ok());
        let too_long = [
            chain(CHAIN_MAX + 1, "+", "SELECT 1", "1"),
            chain(CHAIN_MAX + 1, " OR ", "SELECT 1 WHERE a = 0", "a = 1"),
            chain(CHAIN_MAX + 1, " UNION ALL ", "SELECT 1, 2", "SELECT 1, 2"),
            format!("SELECT f(1{}, 2)", "+ (2)".repeat(CHAIN_MAX + 1)),
        ];
        for sql in too_long {
            let error = check_depth(&sql).unwrap_err().to_string();
            assert!(error.contains("4000") || error.contains("chains over"), "{error}");
        }
        let long_lists = [
            format!("SELECT a IN (-1{})", ", -1".repeat(2 * CHAIN_MAX)),
            format!("VALUES (1, 2 + 3){}", ", (1, 2 + 3)".repeat(2 * CHAIN_MAX)),
        ];
        for sql in long_lists {
            check_depth(&sql).unwrap();
        }
    }

    /// Goal: `cluster` is a column wherever it stands, and stays a keyword in the statements that need it.
    #[test]
    fn cluster_is_a_column() {
        assert_eq!(quote_cluster("SELECT size, cluster FROM é"), "SELECT size, \"cluster\" FROM é");
        assert_eq!(quote_cluster("SELECT m.Cluster\nFROM t"), "SELECT m.\"cluster\"\nFROM t");
        for same in
            ["ALTER MODEL m SET LABEL 'cluster' FOR CLUSTER 3", "SELECT 1 CLUSTER BY a", "SELECT \"Cluster\"", "'"]
        {
            assert_eq!(quote_cluster(same), same);
        }
    }
}
