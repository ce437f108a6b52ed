//! Parameters of prepared statements, `?` or `$1`, and the values that clients bind to them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use covey_engine::user_err;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ParamValues, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Values, cast};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Value, ValueWithSpan, visit_expressions_mut};
use datafusion::sql::sqlparser::tokenizer::Location;

/// Rows that may be bound to one statement.
const ROWS_MAX: usize = 100_000;

/// Numbers the parameters that are written `?`, in the order of the text, and says how many there are.
///
/// # Errors
/// When some are written `?` and others `$1`, or a number is left out.
pub fn number(statement: &mut Statement) -> Result<usize> {
    let Statement::Statement(statement) = statement else { return Ok(0) };
    let (mut places, mut has_names) = (vec![], false);
    each_placeholder(statement, |name, place| if name == "?" { places.push(place) } else { has_names = true });
    if has_names && !places.is_empty() {
        return user_err!("the statement has parameters of both kinds: write either ? or $1");
    }
    places.sort_unstable();
    each_placeholder(statement, |name, place| {
        if let Ok(i) = places.binary_search(&place) {
            *name = format!("${}", i + 1);
        }
    });
    let mut names = BTreeSet::new();
    each_placeholder(statement, |name, _| {
        names.insert(name.clone());
    });
    match (1..=names.len()).find(|i| !names.contains(&format!("${i}"))) {
        Some(i) => {
            user_err!("the statement has {} parameters and none of them is ${i}: number them from $1 on", names.len())
        }
        None => Ok(names.len()),
    }
}

fn each_placeholder(statement: &mut ast::Statement, mut visit: impl FnMut(&mut String, Location)) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expression| {
        if let ast::Expr::Value(ValueWithSpan { value: Value::Placeholder(name), span }) = expression {
            visit(name, span.start);
        }
        ControlFlow::Continue(())
    });
}

/// The `n` parameters of a statement in their order, with the types that its plan wants; text where it does not say, as
/// where a part of the statement that nothing depends on is left out of the plan.
pub fn schema_of(plan: &LogicalPlan, n: usize) -> Result<Schema> {
    let types = plan.get_parameter_types()?;
    let field = |i: usize| {
        let of = types.get(&format!("${i}")).cloned().flatten();
        Field::new(format!("${i}"), of.unwrap_or(DataType::Utf8), true)
    };
    Ok(Schema::new((1..=n).map(field).collect::<Vec<_>>()))
}

/// Whether a plan inserts rows of VALUES as they are, and its parameters are in them alone.
fn is_insert_of_values(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Dml(insert) = plan else { return false };
    let has_parameter = |expr: &Expr| expr.exists(|node| Ok(matches!(node, Expr::Placeholder(_)))).unwrap_or(true);
    let mut node = insert.input.as_ref();
    loop {
        node = match node {
            LogicalPlan::Values(_) => return true,
            LogicalPlan::Projection(projection) if !projection.expr.iter().any(has_parameter) => &projection.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            _ => return false,
        }
    }
}

/// The plan with the values of a row in the place of its parameters; an `INSERT ... VALUES` takes several rows.
///
/// # Errors
/// When there are too few values, or too many rows.
pub fn bind(plan: &LogicalPlan, n_parameters: usize, rows: &[RecordBatch]) -> Result<LogicalPlan> {
    let n_rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
    if n_rows > ROWS_MAX {
        return user_err!("{n_rows} rows are bound to the statement, more than {ROWS_MAX}: send them in parts");
    }
    let mut bound = vec![];
    for batch in rows {
        if batch.num_columns() != n_parameters {
            return user_err!("the statement has {n_parameters} parameters, {} values are bound", batch.num_columns());
        }
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
            let values: Vec<ScalarValue> = values.collect::<Result<_>>()?;
            bound.push(plan.clone().with_param_values(ParamValues::from(values))?);
        }
    }
    let Some(first) = bound.first().cloned() else {
        return user_err!("the statement has {n_parameters} parameters: bind values to them");
    };
    if bound.len() == 1 {
        return Ok(first);
    }
    if !is_insert_of_values(plan) {
        return user_err!("{} rows are bound to the statement: only INSERT ... VALUES takes several", bound.len());
    }
    let mut all = vec![];
    for plan in &bound {
        all.extend(values(plan)?.unwrap_or_default());
    }
    let replaced = first.transform_down(|node| {
        Ok(match node {
            LogicalPlan::Values(Values { schema, .. }) => {
                Transformed::yes(LogicalPlan::Values(of_one_type(&schema, std::mem::take(&mut all))?))
            }
            other => Transformed::no(other),
        })
    });
    replaced.data()
}

/// VALUES with the rows of several, in the types that the first row has; others may have NULL where it has none.
///
/// # Errors
/// When a value cannot be of its type.
fn of_one_type(schema: &DFSchema, rows: Vec<Vec<Expr>>) -> Result<Values> {
    let typed = |(expr, field): (Expr, &FieldRef)| match expr {
        expr if field.data_type().is_null() => Ok(expr),
        Expr::Literal(value, metadata) => Ok(Expr::Literal(value.cast_to(field.data_type())?, metadata)),
        other => Ok(cast(other, field.data_type().clone())),
    };
    let values = rows.into_iter().map(|row| row.into_iter().zip(schema.fields()).map(typed).collect());
    let fields =
        schema.iter().map(|(table, field)| (table.cloned(), Arc::new(field.as_ref().clone().with_nullable(true))));
    let schema = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
    Ok(Values { schema: Arc::new(schema), values: values.collect::<Result<_>>()? })
}

/// The rows of the only VALUES of a plan.
fn values(plan: &LogicalPlan) -> Result<Option<Vec<Vec<Expr>>>> {
    let (mut found, mut n) = (None, 0);
    plan.apply(|node| {
        if let LogicalPlan::Values(values) = node {
            n += 1;
            found = Some(values.values.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found.filter(|_| n == 1))
}
