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

/// Words between conditions: each makes the expression around them one level deeper.
const LOGICAL_WORDS: [&str; 2] = ["AND", "OR"];

/// Words that follow each other in a condition, as other operators do.
const OPERATOR_WORDS: [&str; 9] = ["NOT", "IS", "LIKE", "ILIKE", "SIMILAR", "BETWEEN", "IN", "COLLATE", "CASE"];

/// How deep the expression at one level of parentheses is so far.
#[derive(Debug, Clone, Copy, Default)]
struct Depth {
    logical: usize,
    /// Operators since the last AND or OR, and the most that there were between two of them.
    operators: usize,
    operators_max: usize,
}

impl Depth {
    fn between_conditions(&mut self) {
        self.logical += 1;
        self.operators = 0;
    }

    fn operator(&mut self) {
        self.operators += 1;
        self.operators_max = self.operators_max.max(self.operators);
    }

    fn total(&self) -> usize {
        // A condition has one operator; it is those that follow each other that make it deep.
        self.logical + self.operators_max.saturating_sub(1)
    }
}

/// # Errors
/// When a chain of operators, joins or set operations is longer than [`CHAIN_MAX`].
pub fn check_depth(sql: &str) -> Result<()> {
    let (mut plan, mut longest) = (0, 0);
    // By parentheses; a comma begins another expression.
    let mut levels = vec![Depth::default()];
    for token in tokens(sql) {
        let here = levels.last().copied().unwrap_or_default();
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(Depth { logical: here.total(), ..Depth::default() });
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                levels.pop();
            }
            Token::Comma => {
                let outer = levels.len().checked_sub(2).map_or(0, |i| levels[i].total());
                levels.pop();
                levels.push(Depth { logical: outer, ..Depth::default() });
            }
            token => {
                if let Token::Word(word) = token
                    && is_one_of(word, &PLAN_WORDS)
                {
                    plan += 1;
                }
                if let Some(level) = levels.last_mut() {
                    match token {
                        Token::Word(word) if is_one_of(word, &LOGICAL_WORDS) => level.between_conditions(),
                        Token::Word(word) if is_one_of(word, &OPERATOR_WORDS) => level.operator(),
                        token if is_operator(token) => level.operator(),
                        _ => {}
                    }
                }
            }
        }
        longest = longest.max(plan).max(levels.last().map_or(0, Depth::total));
    }
    if longest > CHAIN_MAX {
        return user_err!(
            "the statement chains over {CHAIN_MAX} operators, joins or set operations: use IN (...), a table of values and a join, or several statements"
        );
    }
    Ok(())
}

fn is_one_of(word: &Word, words: &[&str]) -> bool {
    word.quote_style.is_none() && words.iter().any(|other| word.value.eq_ignore_ascii_case(other))
}

/// Whatever stands between operands. What it is called does not matter: each makes a tree of expressions deeper.
fn is_operator(token: &Token) -> bool {
    !matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Whitespace(_)
            | Token::Period
            | Token::SemiColon
            | Token::EOF
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
            chain(CHAIN_MAX + 2, "+", "SELECT 1", "1"),
            chain(CHAIN_MAX + 1, " OR ", "SELECT 1 WHERE a = 0", "a = 1"),
            chain(CHAIN_MAX + 1, " UNION ALL ", "SELECT 1, 2", "SELECT 1, 2"),
            format!("SELECT f(1{}, 2)", "+ (2)".repeat(CHAIN_MAX + 2)),
            chain(CHAIN_MAX + 2, " IS", "SELECT g", " NULL"),
            chain(CHAIN_MAX + 2, "=", "SELECT true", "true"),
            chain(CHAIN_MAX + 2, "->", "SELECT a", "'b'"),
        ];
        for sql in too_long {
            let error = check_depth(&sql).unwrap_err().to_string();
            assert!(error.contains("4000") || error.contains("chains over"), "{error}");
        }
        let long_lists = [
            format!("SELECT a IN (-1{})", ", -1".repeat(2 * CHAIN_MAX)),
            chain(CHAIN_MAX - 1, " OR ", "SELECT 1 WHERE a.x IS NULL", "a.x LIKE 'b'"),
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
