//! COMMENT ON.

use covey_engine::catalog::COMMENT_BYTES_MAX;
use covey_engine::user_err;
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{ClusterStatement, Reader, normalized, syntax};

const FORM: &str = "COMMENT ON TABLE | VIEW | MODEL name, or COLUMN table.column, IS 'text' | NULL";

/// What a comment is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commented {
    /// Or a view, as `kind` says.
    Table {
        name: TableReference,
        kind: &'static str,
    },
    Column {
        table: TableReference,
        column: String,
    },
    Model(String),
}

impl Reader<'_> {
    pub(super) fn comment(&mut self) -> Result<ClusterStatement> {
        self.skip(2);
        let on = if self.take(&["MODEL"]) {
            Commented::Model(self.name(FORM)?)
        } else if self.take(&["TABLE"]) {
            Commented::Table { name: reference(&self.path()?)?, kind: "table" }
        } else if self.take(&["VIEW"]) {
            Commented::Table { name: reference(&self.path()?)?, kind: "view" }
        } else if self.take(&["COLUMN"]) {
            let path = self.path()?;
            match path.split_last() {
                Some((column, table)) if !table.is_empty() => {
                    Commented::Column { table: reference(table)?, column: column.clone() }
                }
                _ => return self.unexpected("table.column", FORM),
            }
        } else {
            return self.unexpected("TABLE, VIEW, COLUMN or MODEL", FORM);
        };
        self.expect(&["IS"], FORM)?;
        if self.take(&["NULL"]) {
            return Ok(ClusterStatement::Comment { on, comment: None });
        }
        match self.parser.next_token().token {
            Token::SingleQuotedString(text) if text.len() <= COMMENT_BYTES_MAX => {
                Ok(ClusterStatement::Comment { on, comment: Some(text) })
            }
            Token::SingleQuotedString(_) => user_err!("a comment may have {COMMENT_BYTES_MAX} bytes"),
            _ => {
                self.parser.prev_token();
                self.unexpected("a comment in quotes, or NULL", FORM)
            }
        }
    }

    /// Names with points between them.
    fn path(&mut self) -> Result<Vec<String>> {
        let name = self.parser.parse_object_name(false).map_err(syntax)?;
        Ok(name.0.iter().filter_map(|part| part.as_ident()).map(normalized).collect())
    }
}

fn reference(path: &[String]) -> Result<TableReference> {
    match path {
        [table] => Ok(TableReference::bare(table.clone())),
        [schema, table] => Ok(TableReference::partial(schema.clone(), table.clone())),
        [catalog, schema, table] => Ok(TableReference::full(catalog.clone(), schema.clone(), table.clone())),
        _ => user_err!("{:?} is no name of a table; the form is {FORM}", path.join(".")),
    }
}
