//! A table of a database as DataFusion sees it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::{CreateExternalTable, Expr, LogicalPlanBuilder, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::PostgreSqlDialect;
use url::Url;

use super::filters::pushdown;
use super::pools::Databases;
use crate::catalog::{TableEntry, columns_of, schema_of};
use crate::operators::{DatabaseQuery, DatabaseScanExec};
use crate::user_err;

/// What `STORED AS` takes for tables of databases.
pub const FORMATS: [&str; 2] = ["POSTGRES", "POSTGRESQL"];

/// The option that names the table in the database; without it, its name is that in the catalog.
const TABLE: &str = "table";

/// The schema of a table whose name has none.
const SCHEMA_DEFAULT: &str = "public";

pub(crate) fn is_database(format: &str) -> bool {
    FORMATS.iter().any(|known| format.eq_ignore_ascii_case(known))
}

/// What the catalog has to know of a table: the database is asked for its columns.
///
/// # Errors
/// When the statement does not say where it is, or the database cannot be asked.
pub(crate) async fn describe(state: &SessionState, cmd: &CreateExternalTable) -> Result<TableEntry> {
    let name = &cmd.name;
    let [location] = cmd.locations.as_slice() else {
        return user_err!("table {name}: a table of a database has one LOCATION");
    };
    let url = address(&name.to_string(), location)?;
    let is_table = |option: &str| option.trim_start_matches("format.") == TABLE;
    if let Some(option) = cmd.options.keys().find(|option| !is_table(option)) {
        return user_err!("table {name}: tables of databases take the option '{TABLE}' and not {option:?}");
    }
    if !cmd.table_partition_cols.is_empty() || !cmd.order_exprs.is_empty() || !cmd.schema.fields().is_empty() {
        return user_err!("table {name}: columns, PARTITIONED BY and WITH ORDER are the database's; leave them out");
    }
    let source = cmd.options.iter().find(|(option, _)| is_table(option)).map_or(name.table(), |(_, table)| table);
    let source = source_of(source);
    let schema = Databases::of(state.config())?.schema(&url, &source).await;
    let schema = schema.map_err(|e| e.context(format!("table {name}")))?;
    Ok(TableEntry {
        locations: vec![url.to_string()],
        format: FORMATS[0].to_string(),
        options: [(TABLE.to_string(), source.to_quoted_string())].into(),
        columns: columns_of(&schema)?,
        definition: cmd.definition.clone(),
        ..TableEntry::default()
    })
}

/// The table of an entry.
///
/// # Errors
/// When the entry is damaged.
pub(crate) fn open(name: &str, entry: &TableEntry) -> Result<Arc<dyn TableProvider>> {
    let (Some(location), Some(source)) = (entry.locations.first(), entry.options.get(TABLE)) else {
        return user_err!("table {name:?} does not say which table of which database it is");
    };
    Ok(Arc::new(DatabaseTable {
        url: address(name, location)?,
        source: source_of(source),
        schema: schema_of(&entry.columns)?,
    }))
}

/// `schema.table`, quoted where it has to be.
fn source_of(name: &str) -> TableReference {
    match TableReference::parse_str(name) {
        TableReference::Bare { table } => TableReference::partial(SCHEMA_DEFAULT, table),
        other => other,
    }
}

/// The place of a database.
///
/// # Errors
/// When a location is none, or has what belongs into the settings.
fn address(table: &str, location: &str) -> Result<Url> {
    const FORM: &str = "postgres://host:5432/database";
    let url = Url::parse(location).ok().filter(|url| matches!(url.scheme(), "postgres" | "postgresql"));
    let Some(mut url) = url.filter(Url::has_host) else {
        return user_err!("table {table}: LOCATION {location:?} is no {FORM}");
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return user_err!(
            "table {table}: who asks, and with which password, is no part of LOCATION: it is in the settings of each process, in a [[database]] of covey.toml; LOCATION is {FORM}"
        );
    }
    if url.path().trim_matches('/').is_empty() || url.path().trim_matches('/').contains('/') {
        return user_err!("table {table}: LOCATION {location:?} names no database; the form is {FORM}");
    }
    // Both words are one scheme, by which settings are found.
    if url.scheme() == "postgresql" {
        url = Url::parse(&location.replacen("postgresql", "postgres", 1)).unwrap_or(url);
    }
    Ok(url)
}

#[derive(Debug)]
struct DatabaseTable {
    url: Url,
    source: TableReference,
    schema: SchemaRef,
}

impl DatabaseTable {
    /// The query for what a scan asks for.
    fn sql(&self, projection: Option<&Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Result<String> {
        let source = Arc::new(LogicalTableSource::new(Arc::clone(&self.schema)));
        let table = self.source.clone();
        let plan = LogicalPlanBuilder::scan_with_filters(table, source, projection.cloned(), filters.to_vec())?;
        let plan = plan.limit(0, limit)?.build()?;
        Ok(Unparser::new(&PostgreSqlDialect {}).plan_to_sql(&plan)?.to_string())
    }
}

#[async_trait]
impl TableProvider for DatabaseTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| pushdown(filter, &self.schema)).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let sql = self.sql(projection, filters, limit)?;
        let query = DatabaseQuery { url: self.url.clone(), sql, columns: columns_of(&columns)? };
        Ok(Arc::new(DatabaseScanExec::of(query)?))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::prelude::{col, lit};

    use super::*;

    /// Goal: the database is asked for the columns and rows that are needed, names and values quoted.
    #[test]
    fn queries_are_quoted() {
        let fields = ["id", "a \"b\"", "Name"].map(|name| Field::new(name, DataType::Utf8, true));
        let table = DatabaseTable {
            url: Url::parse("postgres://db/crm").unwrap(),
            source: source_of("Sales.\"Acc ounts\""),
            schema: Arc::new(Schema::new(fields.to_vec())),
        };
        let filters = [col("\"Name\"").eq(lit("O'Brien; --"))];
        let sql = table.sql(Some(&vec![1, 2]), &filters, Some(5)).unwrap();
        assert_eq!(
            sql,
            "SELECT \"Acc ounts\".\"a \"\"b\"\"\", \"Acc ounts\".\"Name\" FROM \"sales\".\"Acc ounts\" \
             WHERE (\"Acc ounts\".\"Name\" = 'O''Brien; --') LIMIT 5"
        );
        assert_eq!(table.sql(Some(&vec![]), &[], None).unwrap(), "SELECT FROM \"sales\".\"Acc ounts\"");
    }

    /// Goal: a location is a place and nothing secret.
    #[test]
    fn locations_are_places() {
        assert_eq!(address("t", "postgresql://db:5433/crm").unwrap().as_str(), "postgres://db:5433/crm");
        for (location, expected) in [
            ("postgres://me:hidden@db/crm", "covey.toml"),
            ("postgres://db/crm?password=hidden", "covey.toml"),
            ("postgres://db", "names no database"),
            ("postgres://db/a/b", "names no database"),
            ("mysql://db/crm", "is no postgres://"),
            ("crm", "is no postgres://"),
        ] {
            let message = address("t", location).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("table t"), "{message}");
            assert!(!message.contains("hidden"), "{message}");
        }
    }
}
