//! Our statements, which DataFusion's parser does not know.

mod comment;
mod functions;
mod options;
mod refused;
mod source;

use covey_engine::{external, user_err};
use datafusion::error::Result;
use datafusion::sql::parser::DFParser;
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

pub use comment::Commented;
pub use functions::CreateFunction;
pub use options::{Elbow, FitOptions, GivenCentres, Strategy};
pub use refused::refuse_wrong;
pub use source::{byte_offset, check_depth, quote_cluster};

/// One statement of ours.
#[derive(Debug, Clone)]
pub enum ClusterStatement {
    CreateModel(Box<CreateModel>),
    ExplainCreateModel(Box<CreateModel>),
    DropModel {
        name: String,
        if_exists: bool,
    },
    ShowModels,
    SetLabel {
        name: String,
        cluster: u32,
        label: Option<String>,
    },
    SetThreshold {
        name: String,
        threshold: Option<f64>,
    },
    Evaluate {
        name: String,
        query: String,
    },
    CreateFunction(Box<CreateFunction>),
    DropFunction {
        name: String,
        if_exists: bool,
    },
    Comment {
        on: Commented,
        comment: Option<String>,
    },
    /// The query scans the table with the condition of the statement.
    Optimize {
        name: String,
        query: String,
    },
}

#[derive(Debug, Clone)]
pub struct CreateModel {
    pub name: String,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub options: FitOptions,
    /// The cluster of another model whose rows are clustered again.
    pub recluster: Option<Recluster>,
    /// The query after AS; without one, the rows are those that the other model was trained on.
    pub query: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recluster {
    pub cluster: u32,
    pub model: String,
}

/// Reads one statement; `None` when it is none of ours.
///
/// # Errors
/// When it begins as one of ours and is not: the message has line and column, and the form that was expected.
pub fn parse(sql: &str) -> Result<Option<ClusterStatement>> {
    let Ok(parser) = Parser::new(&GenericDialect {}).try_with_sql(sql) else {
        // Not even tokens: the main parser has the better message.
        return Ok(None);
    };
    let mut reader = Reader { parser };
    let statement = if reader.begins(&["CREATE", "MODEL"]) || reader.begins(&["CREATE", "OR", "REPLACE", "MODEL"]) {
        Some(ClusterStatement::CreateModel(reader.create_model()?))
    } else if reader.begins(&["EXPLAIN", "CREATE", "MODEL"])
        || reader.begins(&["EXPLAIN", "CREATE", "OR", "REPLACE", "MODEL"])
    {
        reader.skip(1);
        Some(ClusterStatement::ExplainCreateModel(reader.create_model()?))
    } else if reader.begins(&["DROP", "MODEL"]) {
        Some(reader.drop_model()?)
    } else if reader.begins(&["SHOW", "MODELS"]) {
        reader.skip(2);
        Some(ClusterStatement::ShowModels)
    } else if reader.begins(&["ALTER", "MODEL"]) {
        Some(reader.alter_model()?)
    } else if reader.begins(&["EVALUATE", "MODEL"]) {
        Some(reader.evaluate_model()?)
    } else if reader.begins(&["CREATE", "FUNCTION"]) || reader.begins(&["CREATE", "OR", "REPLACE", "FUNCTION"]) {
        Some(ClusterStatement::CreateFunction(reader.create_function(sql)?))
    } else if reader.begins(&["DROP", "FUNCTION"]) {
        Some(reader.drop_function()?)
    } else if reader.begins(&["COMMENT", "ON"]) {
        Some(reader.comment()?)
    } else if reader.begins(&["OPTIMIZE"]) {
        Some(reader.optimize()?)
    } else {
        None
    };
    if statement.is_some() {
        reader.end()?;
    }
    Ok(statement)
}

struct Reader<'a> {
    parser: Parser<'a>,
}

impl Reader<'_> {
    fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| is_word(&self.parser.peek_nth_token(i).token, word))
    }

    fn skip(&mut self, n: usize) {
        (0..n).for_each(|_| self.parser.advance_token());
    }

    /// Takes `words` if they come next.
    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.begins(words);
        if found {
            self.skip(words.len());
        }
        found
    }

    fn expect(&mut self, words: &[&str], form: &str) -> Result<()> {
        if self.take(words) { Ok(()) } else { self.unexpected(&words.join(" "), form) }
    }

    fn unexpected<T>(&self, expected: &str, form: &str) -> Result<T> {
        let found = self.parser.peek_token();
        let at = found.span.start;
        if found.token == Token::EOF {
            return user_err!("expected {expected}, but the statement ends there; the form is {form}");
        }
        user_err!(
            "expected {expected}, found {} at line {}, column {}; the form is {form}",
            found.token,
            at.line,
            at.column
        )
    }

    fn end(&mut self) -> Result<()> {
        while self.parser.consume_token(&Token::SemiColon) {}
        if self.parser.peek_token().token == Token::EOF {
            return Ok(());
        }
        self.unexpected("the end of the statement", "one statement")
    }

    fn name(&mut self, form: &str) -> Result<String> {
        self.name_of("a model", form)
    }

    fn name_of(&mut self, what: &str, form: &str) -> Result<String> {
        match self.parser.parse_identifier() {
            Ok(name) => Ok(normalized(&name)),
            Err(_) => self.unexpected(&format!("the name of {what}"), form),
        }
    }

    fn create_model(&mut self) -> Result<Box<CreateModel>> {
        const FORM: &str = "CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name USING KMEANS [OPTIONS (option value, ...)] [RECLUSTER n OF model] [AS SELECT ...]";
        self.skip(1);
        let or_replace = self.take(&["OR", "REPLACE"]);
        self.skip(1);
        let if_not_exists = self.take(&["IF", "NOT", "EXISTS"]);
        if or_replace && if_not_exists {
            return user_err!("OR REPLACE and IF NOT EXISTS exclude each other");
        }
        let name = self.name(FORM)?;
        self.expect(&["USING"], FORM)?;
        self.expect(&["KMEANS"], FORM)?;
        let options = if self.take(&["OPTIONS"]) { self.options(FORM)? } else { vec![] };
        let recluster = if self.take(&["RECLUSTER"]) { Some(self.recluster(FORM)?) } else { None };
        let rows_are_known = recluster.is_some() && !self.begins(&["AS"]);
        let query = if rows_are_known { None } else { Some(self.query_text(FORM)?) };
        let options = FitOptions::try_new(options)?;
        Ok(Box::new(CreateModel { name, or_replace, if_not_exists, options, recluster, query }))
    }

    fn recluster(&mut self, form: &str) -> Result<Recluster> {
        let cluster = self.cluster(form)?;
        self.expect(&["OF"], form)?;
        Ok(Recluster { cluster, model: self.name(form)? })
    }

    /// AS and a query, as text.
    fn query_text(&mut self, form: &str) -> Result<String> {
        self.expect(&["AS"], form)?;
        Ok(self.parser.parse_query().map_err(syntax)?.to_string())
    }

    fn cluster(&mut self, form: &str) -> Result<u32> {
        let Ok(cluster) = self.parser.parse_literal_uint() else {
            return self.unexpected("the number of a cluster", form);
        };
        match u32::try_from(cluster) {
            Ok(cluster) => Ok(cluster),
            Err(_) => user_err!("{cluster} is no cluster of a model"),
        }
    }

    fn evaluate_model(&mut self) -> Result<ClusterStatement> {
        const FORM: &str = "EVALUATE MODEL name AS SELECT ...";
        self.skip(2);
        let name = self.name(FORM)?;
        Ok(ClusterStatement::Evaluate { name, query: self.query_text(FORM)? })
    }

    fn optimize(&mut self) -> Result<ClusterStatement> {
        const FORM: &str = "OPTIMIZE table [WHERE condition on partition columns]";
        self.skip(1);
        let _ = self.take(&["TABLE"]);
        let Ok(name) = self.parser.parse_object_name(false) else {
            return self.unexpected("the name of a table", FORM);
        };
        let condition = match self.take(&["WHERE"]) {
            true => format!(" WHERE {}", self.parser.parse_expr().map_err(syntax)?),
            false => String::new(),
        };
        Ok(ClusterStatement::Optimize { query: format!("SELECT * FROM {name}{condition}"), name: name.to_string() })
    }

    /// `(name value, name = value, ...)`, values as text.
    fn options(&mut self, form: &str) -> Result<Vec<(String, String)>> {
        let mut options = vec![];
        if !self.parser.consume_token(&Token::LParen) {
            return self.unexpected("'(' after OPTIONS", form);
        }
        while !self.parser.consume_token(&Token::RParen) {
            let name = match self.parser.next_token().token {
                Token::Word(Word { value, .. }) | Token::SingleQuotedString(value) => value.to_lowercase(),
                _ => {
                    self.parser.prev_token();
                    return self.unexpected("the name of an option", form);
                }
            };
            let _ = self.parser.consume_token(&Token::Eq);
            let value = self.value(&name, form)?;
            options.push((name, value));
            if !self.parser.consume_token(&Token::Comma) && self.parser.peek_token().token != Token::RParen {
                return self.unexpected("',' or ')' in OPTIONS", form);
            }
        }
        Ok(options)
    }

    fn value(&mut self, option: &str, form: &str) -> Result<String> {
        let sign = if self.parser.consume_token(&Token::Minus) { "-" } else { "" };
        match self.parser.next_token().token {
            Token::Number(text, _) => Ok(format!("{sign}{text}")),
            Token::SingleQuotedString(text) if sign.is_empty() => Ok(text),
            Token::Word(Word { value, quote_style: None, .. }) if sign.is_empty() => Ok(value.to_lowercase()),
            Token::LParen if sign.is_empty() => {
                let mut parts = vec![];
                loop {
                    parts.push(self.value(option, form)?);
                    if self.parser.consume_token(&Token::RParen) {
                        return Ok(format!("({})", parts.join(", ")));
                    }
                    if !self.parser.consume_token(&Token::Comma) {
                        return self.unexpected(&format!("',' or ')' in the value of option {option}"), form);
                    }
                }
            }
            _ => {
                self.parser.prev_token();
                self.unexpected(&format!("a value for option {option}"), form)
            }
        }
    }

    fn drop_model(&mut self) -> Result<ClusterStatement> {
        self.skip(2);
        let if_exists = self.take(&["IF", "EXISTS"]);
        Ok(ClusterStatement::DropModel { name: self.name("DROP MODEL [IF EXISTS] name")?, if_exists })
    }

    fn alter_model(&mut self) -> Result<ClusterStatement> {
        const FORM: &str = "ALTER MODEL name SET LABEL 'label' FOR CLUSTER n, ALTER MODEL name DROP LABEL FOR CLUSTER n, \
                            ALTER MODEL name SET THRESHOLD distance, or ALTER MODEL name DROP THRESHOLD";
        self.skip(2);
        let name = self.name(FORM)?;
        if self.take(&["DROP", "THRESHOLD"]) {
            return Ok(ClusterStatement::SetThreshold { name, threshold: None });
        }
        if self.take(&["SET", "THRESHOLD"]) {
            let text = self.value("THRESHOLD", FORM)?;
            let threshold = text.parse().ok().filter(|distance: &f64| distance.is_finite() && *distance >= 0.0);
            return match threshold {
                Some(_) => Ok(ClusterStatement::SetThreshold { name, threshold }),
                None => user_err!("THRESHOLD must be a distance, a finite number not below 0, got {text:?}"),
            };
        }
        let label = if self.take(&["DROP", "LABEL"]) {
            None
        } else {
            self.expect(&["SET", "LABEL"], FORM)?;
            match self.parser.next_token().token {
                Token::SingleQuotedString(label) => Some(label),
                _ => {
                    self.parser.prev_token();
                    return self.unexpected("a label in quotes", FORM);
                }
            }
        };
        self.expect(&["FOR", "CLUSTER"], FORM)?;
        let cluster = self.cluster(FORM)?;
        Ok(ClusterStatement::SetLabel { name, cluster, label })
    }
}

/// A query as the planner takes it.
pub fn parse_query(sql: &str) -> Result<datafusion::sql::parser::Statement> {
    match DFParser::parse_sql(sql)?.pop_front() {
        Some(query) => Ok(query),
        None => user_err!("expected a query, got {sql:?}"),
    }
}

/// A name as it is looked up.
pub fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// A name as it is written where it may be any.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(word))
}

fn syntax(error: ParserError) -> datafusion::error::DataFusionError {
    external(covey_engine::UserError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every statement of ours is read, with its options, whatever the case and spacing.
    #[test]
    fn reads_our_statements() {
        let sql = "create or replace model M using kmeans\n options (n_clusters 5, ngram_range (1, 2), tol = 1e-3,
                   init 'random', strategy local, sublinear_tf true) as select a from t where b = ';' ;";
        let Some(ClusterStatement::CreateModel(create)) = parse(sql).unwrap() else { panic!("{sql}") };
        assert!(create.or_replace && create.name == "m");
        assert_eq!(create.options.n_clusters, 5);
        assert_eq!(create.options.tfidf.ngram_range, (1, 2));
        assert!(matches!(parse("DROP MODEL IF EXISTS \"M\"").unwrap(),
            Some(ClusterStatement::DropModel { name, if_exists: true }) if name == "M"));
        assert!(matches!(parse("show models;").unwrap(), Some(ClusterStatement::ShowModels)));
        assert!(matches!(parse("ALTER MODEL m SET LABEL 'it''s' FOR CLUSTER 31").unwrap(),
            Some(ClusterStatement::SetLabel { cluster: 31, label: Some(label), .. }) if label == "it's"));
        let sql = "CREATE MODEL junk USING KMEANS RECLUSTER 19 OF M";
        let Some(ClusterStatement::CreateModel(create)) = parse(sql).unwrap() else { panic!("{sql}") };
        assert_eq!(create.recluster, Some(Recluster { cluster: 19, model: "m".to_string() }));
        assert_eq!(create.query, None);
        assert!(matches!(
            parse("explain create or replace model m using kmeans as select 1").unwrap(),
            Some(ClusterStatement::ExplainCreateModel(_))
        ));
        assert!(matches!(
            parse("ALTER MODEL m SET THRESHOLD 0.9").unwrap(),
            Some(ClusterStatement::SetThreshold { threshold: Some(0.9), .. })
        ));
        assert!(matches!(parse("evaluate model m as select 1").unwrap(), Some(ClusterStatement::Evaluate { .. })));
        assert!(matches!(
            parse("optimize lake.\"T\" where day = 3;").unwrap(),
            Some(ClusterStatement::Optimize { query, .. }) if query == "SELECT * FROM lake.\"T\" WHERE day = 3"
        ));
        assert!(matches!(
            parse("comment on column lake.t.\"C\" is null").unwrap(),
            Some(ClusterStatement::Comment { on: Commented::Column { column, .. }, comment: None }) if column == "C"
        ));
        for other in [
            "SELECT 1",
            "CREATE TABLE model AS SELECT 1",
            "SHOW TABLES",
            "EXPLAIN SELECT 1",
            "DROP TABLE model",
            "",
            "'",
        ] {
            assert!(parse(other).unwrap().is_none(), "{other}");
        }
    }

    /// Goal: a wrong statement is an error that says where and what was expected.
    #[test]
    fn errors_say_where() {
        let cases = [
            ("CREATE MODEL m USING DBSCAN AS SELECT 1", "expected KMEANS"),
            ("CREATE MODEL m\n USING KMEANS OPTIONS (n_clusters) AS SELECT 1", "line 2"),
            ("CREATE MODEL USING KMEANS AS SELECT 1", "expected USING"),
            ("CREATE MODEL m USING KMEANS AS", "Expected"),
            ("ALTER MODEL m SET LABEL x FOR CLUSTER 1", "a label in quotes"),
            ("ALTER MODEL m SET LABEL 'x' FOR CLUSTER -1", "the number of a cluster"),
            ("ALTER MODEL m SET THRESHOLD -1", "a finite number not below 0"),
            ("CREATE MODEL m USING KMEANS RECLUSTER x OF m", "the number of a cluster"),
            ("CREATE MODEL m USING KMEANS", "expected AS"),
            ("EVALUATE MODEL m", "expected AS"),
            ("DROP MODEL m n", "the end of the statement"),
            ("COMMENT ON INDEX i IS 'x'", "TABLE, VIEW, COLUMN or MODEL"),
            ("COMMENT ON COLUMN c IS 'x'", "table.column"),
            ("COMMENT ON TABLE t IS x", "a comment in quotes, or NULL"),
            ("OPTIMIZE", "the name of a table"),
            ("OPTIMIZE t BY day", "the end of the statement"),
            ("CREATE MODEL m USING KMEANS OPTIONS (n_cluster 5) AS SELECT 1", "did you mean \"n_clusters\""),
            ("CREATE MODEL m USING KMEANS OPTIONS (n_clusters 0) AS SELECT 1", "n_clusters must be"),
            ("CREATE MODEL m USING KMEANS OPTIONS (n_clusters 5, n_clusters 6) AS SELECT 1", "twice"),
            (
                "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 5, k_max 6) AS SELECT 1",
                "k_max is for n_clusters 'auto'",
            ),
            ("CREATE MODEL m USING KMEANS OPTIONS (n_clusters auto, k_min 7, k_max 6) AS SELECT 1", "got 7 and 6"),
        ];
        for (sql, expected) in cases {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(expected), "{sql}: {error}");
        }
    }
}
