//! The catalog as DataFusion asks for it. Statements that change it do not come this way: those traits cannot wait.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_datafusion_err;
use datafusion::datasource::ViewTable;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, TableType};
use datafusion::optimizer::analyzer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use parking_lot::{Mutex, RwLock};

use super::broken_view::BrokenView;
use super::entry::{Entry, TableEntry, ViewEntry, schema_of};
use super::factory::open;
use super::snapshot::Snapshot;
use super::store::CatalogStore;
use crate::storage::Directory;
use crate::user_err;

/// How old what is known of the catalog may be for a statement: so long may changes by other processes stay unseen.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The tables and views of a warehouse.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    store: Arc<CatalogStore>,
    /// Plans views and opens tables.
    session: OnceLock<Weak<RwLock<SessionState>>>,
    /// Tables that were opened, each with what it was opened from.
    opened: Mutex<HashMap<(String, String), Opened>>,
}

type Opened = (Arc<Entry>, Arc<dyn TableProvider>);

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Catalog version {}", self.snapshot().version)
    }
}

impl Catalog {
    /// # Errors
    /// When the catalog in the warehouse cannot be read.
    pub async fn open(warehouse: &Directory) -> Result<Self> {
        let store = Arc::new(CatalogStore::open(warehouse).await?);
        Ok(Self(Arc::new(Inner { store, session: OnceLock::new(), opened: Mutex::default() })))
    }

    /// Makes `session` the one by which views are planned. The first call counts.
    pub fn attach(&self, session: Weak<RwLock<SessionState>>) {
        let _ = self.0.session.set(session);
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.store.snapshot()
    }

    /// To be called before a statement is planned: sees what other processes have changed.
    ///
    /// # Errors
    /// When the warehouse cannot be read.
    pub async fn refresh(&self) -> Result<()> {
        self.0.store.refresh(AGE_MAX).await
    }

    /// Changes the catalog; see [`CatalogStore::commit`].
    ///
    /// # Errors
    /// Those of `change`, and of the warehouse.
    pub async fn commit<T>(&self, change: impl Fn(&mut Snapshot) -> Result<T>) -> Result<T> {
        self.0.store.commit(change).await
    }

    /// To be called when a write is over: readers of this process need not ask.
    pub fn settle(&self, write: &str) {
        self.0.store.settle(write);
    }

    /// A table that has no name in the catalog; `what` tells it in errors.
    ///
    /// # Errors
    /// When its files cannot be had.
    pub async fn open_entry(&self, what: &str, entry: &TableEntry) -> Result<Arc<dyn TableProvider>> {
        open(&self.state()?, what, entry, &self.0.store).await
    }

    fn state(&self) -> Result<SessionState> {
        let session = self.0.session.get().and_then(Weak::upgrade);
        let session = session.ok_or_else(|| internal_datafusion_err!("the catalog belongs to no session"))?;
        let state = session.read().clone();
        Ok(state)
    }

    async fn table(&self, schema: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.entry(schema, name) else { return Ok(None) };
        let table = match entry.as_ref() {
            Entry::View(view) => return self.view(schema, name, view).await.map(Some),
            Entry::Table(table) => table,
        };
        let key = (schema.to_string(), name.to_string());
        if let Some((of, opened)) = self.0.opened.lock().get(&key)
            && of == entry
        {
            return Ok(Some(Arc::clone(opened)));
        }
        let opened = open(&self.state()?, name, table, &self.0.store).await?;
        self.0.opened.lock().insert(key, (Arc::clone(entry), Arc::clone(&opened)));
        Ok(Some(opened))
    }

    /// A view, planned with the tables and views that are there now.
    async fn view(&self, schema: &str, name: &str, view: &ViewEntry) -> Result<Arc<dyn TableProvider>> {
        // Plans of views hold plans of views: the future has no size of its own.
        match Box::pin(self.plan(view)).await {
            Ok(plan) => Ok(Arc::new(ViewTable::new(plan, Some(view.definition.clone())))),
            Err(error) => {
                let error = error.context(format!("view {schema}.{name} can no longer be planned"));
                Ok(Arc::new(BrokenView::new(schema_of(&view.columns)?, view.definition.clone(), error)))
            }
        }
    }

    async fn plan(&self, view: &ViewEntry) -> Result<LogicalPlan> {
        let mut state = self.state()?;
        state.config_mut().options_mut().catalog.default_schema.clone_from(&view.default_schema);
        match state.create_logical_plan(&view.definition).await? {
            LogicalPlan::Ddl(DdlStatement::CreateView(create)) => {
                TypeCoercion::new().analyze(Arc::unwrap_or_clone(create.input), &ConfigOptions::default())
            }
            other => user_err!("the definition of a view is no CREATE VIEW: {}", other.display()),
        }
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.snapshot().schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.snapshot().schema(name)?;
        Some(Arc::new(CatalogSchema { catalog: self.clone(), name: name.to_string() }))
    }
}

/// One schema of a [`Catalog`].
#[derive(Debug)]
struct CatalogSchema {
    catalog: Catalog,
    name: String,
}

#[async_trait]
impl SchemaProvider for CatalogSchema {
    fn table_names(&self) -> Vec<String> {
        self.catalog.snapshot().schema(&self.name).map_or_else(Vec::new, |entries| entries.keys().cloned().collect())
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.catalog.table(&self.name, name).await
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.catalog.snapshot().entry(&self.name, name).map(|entry| entry.table_type()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.snapshot().entry(&self.name, name).is_some()
    }
}
