//! Statements that change the catalog: tables, views and schemas are made and dropped.

use std::sync::Arc;

use covey_engine::catalog::{Catalog, Entry, IfTaken, ViewEntry, columns_of, describe};
use covey_engine::session::CATALOG;
use covey_engine::storage::ObjectStores;
use covey_engine::user_err;
use datafusion::common::{DFSchema, ResolvedTableReference, SchemaReference, TableReference};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, CreateView, DdlStatement};

use crate::writes::remove_files;

/// Runs a statement that changes the catalog.
///
/// # Errors
/// When it cannot be done: what is there is named.
pub async fn define(
    catalog: &Catalog,
    stores: &Arc<ObjectStores>,
    state: &SessionState,
    statement: &DdlStatement,
) -> Result<()> {
    match statement {
        DdlStatement::CreateExternalTable(create) => create_table(catalog, stores, state, create).await,
        DdlStatement::CreateView(create) => create_view(catalog, state, create).await,
        DdlStatement::DropTable(drop) => remove(catalog, stores, state, &drop.name, "table", drop.if_exists).await,
        DdlStatement::DropView(drop) => remove(catalog, stores, state, &drop.name, "view", drop.if_exists).await,
        DdlStatement::CreateCatalogSchema(create) => {
            let name = own_schema(&create.schema_name)?;
            catalog.commit(|snapshot| snapshot.add_schema(name, create.if_not_exists)).await
        }
        DdlStatement::DropCatalogSchema(drop) => {
            let name = match &drop.name {
                SchemaReference::Bare { schema } => schema.as_ref(),
                SchemaReference::Full { schema, catalog } => check_catalog(catalog, schema)?,
            };
            let dropped = catalog.commit(|snapshot| snapshot.remove_schema(name, drop.if_exists, drop.cascade)).await?;
            dropped.into_values().for_each(|entry| remove_files(stores, entry));
            Ok(())
        }
        DdlStatement::CreateCatalog(_) => {
            user_err!("there is no CREATE DATABASE: namespaces are made by CREATE SCHEMA")
        }
        other => user_err!("covey has no {}", other.name()),
    }
}

async fn create_table(
    catalog: &Catalog,
    stores: &Arc<ObjectStores>,
    state: &SessionState,
    create: &CreateExternalTable,
) -> Result<()> {
    let name = resolve(state, &create.name)?;
    let if_taken = IfTaken::of(create.if_not_exists, create.or_replace, &format!("table {}", create.name))?;
    let is_taken = catalog.snapshot().entry(&name.schema, &name.table).is_some();
    if is_taken && if_taken == IfTaken::Keep {
        return Ok(());
    }
    let entry = Entry::Table(describe(state, create).await?);
    put(catalog, stores, &name, entry, if_taken).await?;
    Ok(())
}

async fn create_view(catalog: &Catalog, state: &SessionState, create: &CreateView) -> Result<()> {
    let name = resolve(state, &create.name)?;
    if create.temporary {
        return user_err!("view {}: views stay until they are dropped; leave TEMPORARY out", create.name);
    }
    let Some(definition) = create.definition.clone() else {
        return user_err!("view {}: the statement came without its text", create.name);
    };
    let schema = create.input.schema();
    check_names(&format!("view {}", create.name), schema)?;
    let options = &state.config().options().catalog;
    let entry = ViewEntry {
        uses: uses(state, &definition)?,
        definition,
        default_schema: options.default_schema.clone(),
        columns: columns_of(schema.as_arrow())?,
    };
    let if_taken = if create.or_replace { IfTaken::Replace } else { IfTaken::Refuse };
    let entry = Entry::View(entry);
    catalog.commit(|snapshot| snapshot.put(&name.schema, &name.table, entry.clone(), if_taken)).await?;
    Ok(())
}

/// Puts a table into the catalog; whether it is there now. Files of the one that it replaces go.
pub async fn put(
    catalog: &Catalog,
    stores: &Arc<ObjectStores>,
    name: &ResolvedTableReference,
    entry: Entry,
    if_taken: IfTaken,
) -> Result<bool> {
    let (is_put, before) = catalog
        .commit(|snapshot| {
            let before = snapshot.entry(&name.schema, &name.table).cloned();
            Ok((snapshot.put(&name.schema, &name.table, entry.clone(), if_taken)?, before))
        })
        .await?;
    if let (true, Some(before)) = (is_put, before) {
        remove_files(stores, before);
    }
    Ok(is_put)
}

/// # Errors
/// When two columns have the same name.
pub fn check_names(statement: &str, schema: &DFSchema) -> Result<()> {
    let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => user_err!("{statement}: two of its columns are named {:?}; rename one with AS", pair[0]),
        None => Ok(()),
    }
}

/// The tables and views that a statement names, as (schema, name).
fn uses(state: &SessionState, definition: &str) -> Result<Vec<(String, String)>> {
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(definition, &dialect)?;
    let references = state.resolve_table_references(&statement)?;
    let options = &state.config().options().catalog;
    let resolved = references.into_iter().map(|name| name.resolve(CATALOG, &options.default_schema));
    Ok(resolved
        .filter(|name| name.catalog.as_ref() == CATALOG)
        .map(|name| (name.schema.to_string(), name.table.to_string()))
        .collect())
}

async fn remove(
    catalog: &Catalog,
    stores: &Arc<ObjectStores>,
    state: &SessionState,
    name: &TableReference,
    kind: &str,
    if_exists: bool,
) -> Result<()> {
    let name = resolve(state, name)?;
    let dropped = catalog.commit(|snapshot| snapshot.remove(&name.schema, &name.table, kind, if_exists)).await?;
    dropped.into_iter().for_each(|entry| remove_files(stores, entry));
    Ok(())
}

pub fn resolve(state: &SessionState, name: &TableReference) -> Result<ResolvedTableReference> {
    let options = &state.config().options().catalog;
    let name = name.clone().resolve(CATALOG, &options.default_schema);
    check_catalog(&name.catalog, &name.schema)?;
    Ok(name)
}

fn check_catalog<'a>(catalog: &str, schema: &'a str) -> Result<&'a str> {
    if catalog == CATALOG {
        return Ok(schema);
    }
    user_err!("there is no catalog {catalog:?}: the only one is {CATALOG:?}, and namespaces are made by CREATE SCHEMA")
}

/// The schema in `covey.name` or `name`.
fn own_schema(name: &str) -> Result<&str> {
    match name.split_once('.') {
        Some((catalog, schema)) => check_catalog(catalog, schema),
        None => Ok(name),
    }
}
