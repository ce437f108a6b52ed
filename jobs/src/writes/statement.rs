//! What is changed in statements that write before DataFusion plans them.

use covey_engine::catalog::LakeTable;
use covey_engine::user_err;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::{IdentNormalizer, object_name_to_table_reference};
use datafusion::sql::sqlparser::ast::{self, HiveDistributionStyle, Ident, ObjectName, TableObject};

/// Takes `PARTITIONED BY` out of a CREATE TABLE AS: DataFusion plans the rest.
///
/// # Errors
/// When it is no list of names.
pub fn take_partitioned_by(statement: &mut Statement) -> Result<Vec<String>> {
    let Statement::Statement(statement) = statement else { return Ok(vec![]) };
    let ast::Statement::CreateTable(create) = statement.as_mut() else { return Ok(vec![]) };
    let HiveDistributionStyle::PARTITIONED { columns } = &create.hive_distribution else { return Ok(vec![]) };
    let names = columns.iter().map(|column| column.name.clone());
    let names: Vec<String> = names.map(|name| IdentNormalizer::default().normalize(name)).collect();
    create.hive_distribution = HiveDistributionStyle::NONE;
    Ok(names)
}

/// Names the columns of an INSERT that names none: those that can be written, in their order.
///
/// # Errors
/// When it names one that is made of others.
pub async fn name_columns(session: &SessionContext, statement: &mut Statement) -> Result<()> {
    let Statement::Statement(statement) = statement else { return Ok(()) };
    let ast::Statement::Insert(insert) = statement.as_mut() else { return Ok(()) };
    let TableObject::TableName(name) = &insert.table else { return Ok(()) };
    // A table that is not there is told when the statement is planned.
    let Ok(table) = session.table_provider(object_name_to_table_reference(name.clone(), true)?).await else {
        return Ok(());
    };
    let Some(made) = table.downcast_ref::<LakeTable>().and_then(LakeTable::made_column) else { return Ok(()) };
    if insert.columns.iter().any(|column| column.to_string().trim_matches('"').eq_ignore_ascii_case(made)) {
        return user_err!("INSERT INTO {name}: column {made:?} is made of the partition columns; leave it out");
    }
    if insert.columns.is_empty() {
        let schema = table.schema();
        let written = schema.fields().iter().filter(|field| field.name() != made);
        insert.columns = written.map(|field| ObjectName::from(Ident::with_quote('"', field.name()))).collect();
    }
    Ok(())
}
