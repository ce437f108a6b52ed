//! CREATE FUNCTION and DROP FUNCTION.

use covey_engine::catalog::ParameterEntry;
use covey_engine::user_err;
use datafusion::error::Result;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{ClusterStatement, Reader, syntax};

/// Most parameters of a function.
const PARAMETERS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub struct CreateFunction {
    pub name: String,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub parameters: Vec<ParameterEntry>,
    pub returns: Option<String>,
    pub body: Expr,
    /// The text of the statement.
    pub definition: String,
}

impl Reader<'_> {
    pub(super) fn create_function(&mut self, sql: &str) -> Result<Box<CreateFunction>> {
        const FORM: &str = "CREATE [OR REPLACE] FUNCTION [IF NOT EXISTS] name(parameter [TYPE], ...) [RETURNS TYPE] AS | RETURN expression";
        self.skip(1);
        let or_replace = self.take(&["OR", "REPLACE"]);
        self.skip(1);
        let if_not_exists = self.take(&["IF", "NOT", "EXISTS"]);
        let name = self.name_of("a function", FORM)?;
        let parameters = self.parameters(&name, FORM)?;
        let returns = match self.take(&["RETURNS"]) {
            true => Some(self.parser.parse_data_type().map_err(syntax)?.to_string()),
            false => None,
        };
        if !self.take(&["AS"]) && !self.take(&["RETURN"]) {
            return self.unexpected("AS or RETURN", FORM);
        }
        let body = self.parser.parse_expr().map_err(syntax)?;
        let definition = sql.trim().trim_end_matches(';').trim().to_string();
        Ok(Box::new(CreateFunction { name, or_replace, if_not_exists, parameters, returns, body, definition }))
    }

    fn parameters(&mut self, function: &str, form: &str) -> Result<Vec<ParameterEntry>> {
        let mut parameters: Vec<ParameterEntry> = vec![];
        if !self.parser.consume_token(&Token::LParen) {
            return self.unexpected("'(' and the parameters", form);
        }
        while !self.parser.consume_token(&Token::RParen) {
            let name = self.name_of("a parameter", form)?;
            if parameters.iter().any(|other| other.name == name) {
                return user_err!("function {function:?} has two parameters named {name:?}");
            }
            if parameters.len() == PARAMETERS_MAX {
                return user_err!("function {function:?} has more than {PARAMETERS_MAX} parameters");
            }
            let ends = matches!(self.parser.peek_token().token, Token::Comma | Token::RParen);
            let data_type = match ends {
                true => None,
                false => Some(self.parser.parse_data_type().map_err(syntax)?.to_string()),
            };
            parameters.push(ParameterEntry { name, data_type });
            if !self.parser.consume_token(&Token::Comma) && self.parser.peek_token().token != Token::RParen {
                return self.unexpected("',' or ')' after a parameter", form);
            }
        }
        Ok(parameters)
    }

    pub(super) fn drop_function(&mut self) -> Result<ClusterStatement> {
        self.skip(2);
        let if_exists = self.take(&["IF", "EXISTS"]);
        let name = self.name_of("a function", "DROP FUNCTION [IF EXISTS] name")?;
        Ok(ClusterStatement::DropFunction { name, if_exists })
    }
}
