//! Functions that users make by CREATE FUNCTION: calls of them are replaced by their bodies before a statement is
//! planned. So they cost nothing when rows are worked on, filters on them are pushed down, and a body may use whatever
//! SQL has: aggregates, windows, `predict`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::Arc;

use covey_engine::catalog::{FunctionEntry, Snapshot};
use covey_engine::user_err;
use datafusion::arrow;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, Select,
    SelectItem, TableFactor, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::statements::{CreateFunction, check_depth, normalized};

/// How many functions may call each other, one the next.
const LEVELS_MAX: usize = 32;

/// Nodes of expressions that the calls of one statement may become: functions that call each other twice double with
/// each level.
const NODES_MAX: usize = 4_000;

/// The function that a statement makes.
///
/// # Errors
/// When its name is one that is built in, or its body is not made of its parameters and of functions that there are.
pub fn function_of(state: &SessionState, snapshot: &Snapshot, create: &CreateFunction) -> Result<FunctionEntry> {
    let name = &create.name;
    if is_built_in(state, name) {
        return user_err!("function {name:?} is one that is built in; choose another name");
    }
    let mut names = Names::default();
    let _: ControlFlow<()> = create.body.visit(&mut names);
    let is_parameter = |column: &&String| create.parameters.iter().any(|parameter| parameter.name == **column);
    if let Some(other) = names.columns.iter().find(|column| !is_parameter(column)) {
        return user_err!("function {name:?}: its body has {other:?}, which is none of its parameters");
    }
    if let Some(path) = names.paths.iter().find(|path| is_parameter(&&path[0])) {
        return user_err!(
            "function {name:?}: its body has {}, but {:?} is a parameter: a field of its value is {}['{}']",
            path.join("."),
            path[0],
            path[0],
            path[1..].join(".")
        );
    }
    if let Some(path) = names.paths.first() {
        return user_err!("function {name:?}: its body has {:?}, which is none of its parameters", path.join("."));
    }
    if let Some(placeholder) = names.placeholders.first() {
        return user_err!("function {name:?}: its body has {placeholder}; write a parameter of the function");
    }
    let mut calls = vec![];
    for called in names.functions {
        if called == *name {
            return user_err!("function {name:?} would call itself");
        }
        match snapshot.functions().contains_key(&called) {
            true => calls.push(called),
            false if is_built_in(state, &called) => {}
            false => return user_err!("function {name:?}: its body calls {called:?}, which there is not"),
        }
    }
    Ok(FunctionEntry {
        parameters: create.parameters.clone(),
        returns: create.returns.clone(),
        body: create.body.to_string(),
        calls,
        definition: create.definition.clone(),
    })
}

fn is_built_in(state: &SessionState, name: &str) -> bool {
    state.udf(name).is_ok() || state.udaf(name).is_ok() || state.udwf(name).is_ok()
}

pub fn listed_schema() -> SchemaRef {
    let text = |name: &str, is_nullable| Field::new(name, arrow::datatypes::DataType::Utf8, is_nullable);
    Arc::new(Schema::new(vec![
        text("function", false),
        text("parameters", false),
        text("returns", true),
        text("body", false),
    ]))
}

/// The rows of `covey_functions()`.
///
/// # Errors
/// None that could be seen.
pub fn listed(snapshot: &Snapshot) -> Result<RecordBatch> {
    let functions: Vec<_> = snapshot.functions().iter().collect();
    let parameters = |function: &FunctionEntry| {
        let each = function.parameters.iter().map(|parameter| match &parameter.data_type {
            Some(data_type) => format!("{} {data_type}", parameter.name),
            None => parameter.name.clone(),
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(functions.iter().map(|(name, _)| name))),
        Arc::new(StringArray::from_iter_values(functions.iter().map(|(_, function)| parameters(function)))),
        Arc::new(functions.iter().map(|(_, function)| function.returns.as_deref()).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(functions.iter().map(|(_, function)| &function.body))),
    ];
    Ok(RecordBatch::try_new(listed_schema(), columns)?)
}

/// The columns and functions that an expression names. What is in a query inside it belongs to that query.
#[derive(Default)]
struct Names {
    columns: BTreeSet<String>,
    /// Columns with their tables.
    paths: BTreeSet<Vec<String>>,
    placeholders: BTreeSet<String>,
    functions: BTreeSet<String>,
    queries: usize,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) if self.queries == 0 => drop(self.columns.insert(normalized(name))),
            Expr::CompoundIdentifier(path) if self.queries == 0 => {
                self.paths.insert(path.iter().map(normalized).collect());
            }
            Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => {
                self.placeholders.insert(name.clone());
            }
            Expr::Function(function) => self.functions.extend(called(function)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The name of a function without a schema.
fn called(function: &Function) -> Option<String> {
    match function.name.0.as_slice() {
        [name] => name.as_ident().map(normalized),
        _ => None,
    }
}

/// Replaces the calls of a statement.
///
/// # Errors
/// When one does not fit its function, or they become too much.
pub fn expand(statement: &mut Statement, snapshot: &Snapshot) -> Result<()> {
    if snapshot.functions().is_empty() {
        return Ok(());
    }
    match statement {
        Statement::Statement(statement) => run(statement.as_mut(), snapshot),
        Statement::Explain(explain) => expand(&mut explain.statement, snapshot),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => run(query.as_mut(), snapshot),
            CopyToSource::Relation(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The text of a query with its calls replaced.
///
/// # Errors
/// Those of [`expand`].
pub fn expanded_query(query: &str, snapshot: &Snapshot) -> Result<String> {
    if snapshot.functions().is_empty() {
        return Ok(query.to_string());
    }
    let mut parsed = Parser::new(&GenericDialect {}).try_with_sql(query)?.parse_query()?;
    run(parsed.as_mut(), snapshot)?;
    Ok(parsed.to_string())
}

/// Replaces the calls in a statement or query.
fn run(tree: &mut (impl VisitMut + Display), snapshot: &Snapshot) -> Result<()> {
    let mut expansion = Expansion { functions: snapshot.functions(), nodes: 0, inside: vec![] };
    if let ControlFlow::Break(error) = VisitMut::visit(tree, &mut expansion) {
        return Err(error);
    }
    if expansion.nodes == 0 {
        return Ok(());
    }
    // What was short enough before may be too deep now.
    check_depth(&tree.to_string())
}

struct Expansion<'a> {
    functions: &'a BTreeMap<String, Arc<FunctionEntry>>,
    nodes: usize,
    /// The functions whose bodies are worked on, each called by the one before.
    inside: Vec<&'a FunctionEntry>,
}

impl VisitorMut for Expansion<'_> {
    type Break = DataFusionError;

    /// A column keeps the name that it has in the statement.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataFusionError> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && self.is_called_in(expr)
            {
                let alias = Ident::with_quote('"', expr.to_string().replace('"', ""));
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let Some((name, function)) = called(call).and_then(|name| self.functions.get_key_value(&name)) else {
            return ControlFlow::Continue(());
        };
        match self.replaced(name, function.as_ref(), call) {
            Ok(body) => *expr = body,
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

impl<'a> Expansion<'a> {
    fn is_called_in(&self, expr: &Expr) -> bool {
        let mut names = Names::default();
        let _: ControlFlow<()> = expr.visit(&mut names);
        names.functions.iter().any(|name| self.functions.contains_key(name))
    }

    /// The body of a function with the arguments of a call, whose own calls are replaced already.
    fn replaced(&mut self, name: &str, function: &'a FunctionEntry, call: &Function) -> Result<Expr> {
        if self.inside.len() == LEVELS_MAX {
            return user_err!("function {name:?}: more than {LEVELS_MAX} functions call each other, one the next");
        }
        let arguments = arguments_of(name, function, call)?;
        let mut body = parsed_expr(&function.body)?;
        // Calls in the body first: the arguments are none of its.
        self.inside.push(function);
        let inner = VisitMut::visit(&mut body, self);
        self.inside.pop();
        if let ControlFlow::Break(error) = inner {
            return Err(error.context(format!("in function {name:?}")));
        }
        let mut relations = Relations::default();
        let _: ControlFlow<()> = Visit::visit(&body, &mut relations);
        let mut placing =
            Placing { arguments: &arguments, outer: self.inside.last().copied(), relations: relations.0, queries: 0 };
        if let ControlFlow::Break(error) = VisitMut::visit(&mut body, &mut placing) {
            return Err(error.context(format!("in function {name:?}")));
        }
        let mut count = Count(0);
        let _: ControlFlow<()> = Visit::visit(&body, &mut count);
        // What is inside another body is counted there.
        self.nodes += if self.inside.is_empty() { count.0 } else { 0 };
        if self.nodes.max(count.0) > NODES_MAX {
            return user_err!(
                "function {name:?}: the calls of the statement become over {NODES_MAX} operators and functions; use it in fewer places, or on the result of a query within the query"
            );
        }
        match &function.returns {
            Some(data_type) => cast(body, data_type),
            None => Ok(nested(body)),
        }
    }
}

/// The arguments by the names of the parameters.
fn arguments_of(name: &str, function: &FunctionEntry, call: &Function) -> Result<BTreeMap<String, Expr>> {
    let takes = || {
        let names: Vec<&str> = function.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        format!("{name}({})", names.join(", "))
    };
    let FunctionArguments::List(list) = &call.args else {
        return user_err!("function {name:?} is called as {}", takes());
    };
    let is_more = list.duplicate_treatment.is_some() || !list.clauses.is_empty();
    if is_more || call.filter.is_some() || call.over.is_some() || !call.within_group.is_empty() {
        return user_err!(
            "function {name:?} was made by CREATE FUNCTION and takes no DISTINCT, ORDER BY, FILTER or OVER: write them into its body"
        );
    }
    if list.args.len() != function.parameters.len() {
        return user_err!("function {name:?} is called as {}, not with {} arguments", takes(), list.args.len());
    }
    let mut arguments = BTreeMap::new();
    for (argument, by_place) in list.args.iter().zip(&function.parameters) {
        let (parameter, value) = match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (by_place.name.clone(), value),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => (normalized(name), value),
            other => return user_err!("function {name:?} is called as {}, it takes no {other}", takes()),
        };
        let Some(known) = function.parameters.iter().find(|known| known.name == parameter) else {
            return user_err!("function {name:?} is called as {}, it has no parameter {parameter:?}", takes());
        };
        let value = match &known.data_type {
            Some(data_type) => cast(value.clone(), data_type)?,
            None => nested(value.clone()),
        };
        if arguments.insert(parameter, value).is_some() {
            return user_err!("function {name:?} is called as {}, one of them is given twice", takes());
        }
    }
    Ok(arguments)
}

/// The expression in parentheses, where it needs them between operators.
fn nested(expr: Expr) -> Expr {
    let is_one = matches!(
        expr,
        Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            | Expr::Nested(_)
            | Expr::Function(_)
            | Expr::Cast { kind: CastKind::Cast, .. }
            | Expr::Subquery(_)
    );
    if is_one { expr } else { Expr::Nested(Box::new(expr)) }
}

fn parsed_expr(text: &str) -> Result<Expr> {
    Ok(Parser::new(&GenericDialect {}).try_with_sql(text)?.parse_expr()?)
}

fn cast(expr: Expr, data_type: &str) -> Result<Expr> {
    let data_type: DataType = Parser::new(&GenericDialect {}).try_with_sql(data_type)?.parse_data_type()?;
    Ok(Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None })
}

/// Puts arguments in the places of parameters.
struct Placing<'a> {
    arguments: &'a BTreeMap<String, Expr>,
    /// The function in whose body the call is.
    outer: Option<&'a FunctionEntry>,
    /// What queries inside the body read.
    relations: BTreeSet<String>,
    queries: usize,
}

impl Placing<'_> {
    /// # Errors
    /// When a column in an argument could be taken for one of a query inside the body.
    fn check_argument(&self, argument: &Expr) -> Result<()> {
        let mut names = Names::default();
        let _: ControlFlow<()> = argument.visit(&mut names);
        // Parameters of the function that calls are replaced in their turn.
        let is_parameter = |column: &&String| {
            self.outer.is_some_and(|outer| outer.parameters.iter().any(|parameter| parameter.name == **column))
        };
        if let Some(column) = names.columns.iter().find(|column| !is_parameter(column)) {
            return user_err!(
                "its argument {column} goes into a query inside it, where a column may have the same name: say of which table it is, as in t.{column}"
            );
        }
        let table = |path: &&Vec<String>| path.len() > 1 && self.relations.contains(&path[path.len() - 2]);
        if let Some(path) = names.paths.iter().find(table) {
            return user_err!(
                "its argument {} goes into a query inside it, which reads {} too: give that of the statement another name with AS",
                path.join("."),
                path[path.len() - 2]
            );
        }
        Ok(())
    }
}

impl VisitorMut for Placing<'_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if let Expr::Identifier(name) = expr
            && let Some(argument) = self.arguments.get(&normalized(name))
        {
            if self.queries > 0
                && let Err(error) = self.check_argument(argument)
            {
                return ControlFlow::Break(error);
            }
            *expr = argument.clone();
        }
        ControlFlow::Continue(())
    }
}

/// The tables that queries inside an expression read, by the names that they have there.
#[derive(Default)]
struct Relations(BTreeSet<String>);

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let (name, alias) = match factor {
            TableFactor::Table { name, alias, .. } => (name.0.last().and_then(|part| part.as_ident()), alias),
            TableFactor::Derived { alias, .. } | TableFactor::TableFunction { alias, .. } => (None, alias),
            _ => return ControlFlow::Continue(()),
        };
        self.0.extend(alias.as_ref().map(|alias| &alias.name).or(name).map(normalized));
        ControlFlow::Continue(())
    }
}

struct Count(usize);

impl Visitor for Count {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}
