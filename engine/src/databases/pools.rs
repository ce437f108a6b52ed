//! Connections to databases, made when they are first needed and kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{TableReference, exec_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionConfig;
use datafusion_table_providers_common::UnsupportedTypeAction;
use datafusion_table_providers_common::sql::db_connection_pool::DbConnectionPool;
use datafusion_table_providers_common::sql::db_connection_pool::dbconnection::{get_schema, query_arrow};
use datafusion_table_providers_common::util::secrets::to_secret_map;
use datafusion_table_providers_postgres::pool::PostgresConnectionPool;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use url::Url;

use crate::settings::{DatabaseSettings, Settings};
use crate::user_err;

/// A database that has not taken a connection by then is down.
const CONNECT_SECONDS_MAX: u64 = 10;

/// Connections of one process to one database, where the settings do not say.
const CONNECTIONS_DEFAULT: usize = 4;

pub const PORT: u16 = 5432;

/// Times with a zone are compared as such only in a session whose own zone is that of the literals.
const SESSION: &str = "-c TimeZone=UTC";

/// The databases that a process knows.
#[derive(Debug, Default)]
pub struct Databases {
    settings: Settings,
    pools: Mutex<HashMap<String, Arc<OnceCell<Arc<PostgresConnectionPool>>>>>,
}

impl Databases {
    pub fn new(settings: Settings) -> Self {
        Self { settings, pools: Mutex::default() }
    }

    /// Those of a session.
    ///
    /// # Errors
    /// When it was not made by [`crate::session`].
    pub fn of(session: &SessionConfig) -> Result<Arc<Self>> {
        session.get_extension().ok_or_else(|| exec_datafusion_err!("this session knows no databases"))
    }

    /// The columns of a table.
    ///
    /// # Errors
    /// When the database cannot be asked, or has no such table.
    pub async fn schema(&self, url: &Url, table: &TableReference) -> Result<SchemaRef> {
        let connecting = async {
            let connection = self.pool(url).await?.connect().await.map_err(|e| told(url, &*e))?;
            get_schema(connection, table).await.map_err(|e| told(url, &e))
        };
        let schema = in_time(url, connecting).await?;
        match schema.fields().is_empty() {
            true => user_err!("{url} has no table {table} that its user sees, or it has no columns"),
            false => Ok(schema),
        }
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// When the database cannot be asked, or refuses the query.
    pub async fn query(&self, url: &Url, sql: String, schema: SchemaRef) -> Result<SendableRecordBatchStream> {
        let connecting = async { self.pool(url).await?.connect().await.map_err(|e| told(url, &*e)) };
        let connection = in_time(url, connecting).await?;
        query_arrow(connection, sql, Some(schema)).await.map_err(|e| told(url, &e))
    }

    async fn pool(&self, url: &Url) -> Result<Arc<PostgresConnectionPool>> {
        let cell = Arc::clone(self.pools.lock().entry(url.to_string()).or_default());
        let pool = cell.get_or_try_init(|| connect(url, self.settings.database(url))).await?;
        Ok(Arc::clone(pool))
    }
}

async fn in_time<T>(url: &Url, connecting: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS_MAX), connecting).await {
        Ok(connected) => connected,
        Err(_) => user_err!("{url}: the database does not answer, tried for {CONNECT_SECONDS_MAX} s"),
    }
}

async fn connect(url: &Url, settings: Option<&DatabaseSettings>) -> Result<Arc<PostgresConnectionPool>> {
    let mut parameters = HashMap::from([
        ("host".to_string(), url.host_str().unwrap_or_default().to_string()),
        ("port".to_string(), url.port().unwrap_or(PORT).to_string()),
        ("db".to_string(), url.path().trim_matches('/').to_string()),
        ("application_name".to_string(), "covey".to_string()),
        ("options".to_string(), SESSION.to_string()),
        ("connection_pool_size".to_string(), CONNECTIONS_DEFAULT.to_string()),
    ]);
    // As with PostgreSQL's own programs, what the settings leave open is looked up in the environment.
    for (name, variable) in
        [("user", "PGUSER"), ("pass", "PGPASSWORD"), ("sslmode", "PGSSLMODE"), ("sslrootcert", "PGSSLROOTCERT")]
    {
        let set = settings.and_then(|settings| settings.options.get(name).cloned());
        if let Some(value) = set.or_else(|| std::env::var(variable).ok()) {
            parameters.insert(name.to_string(), value);
        }
    }
    if let Some(connections) = settings.and_then(|settings| settings.options.get("connections")) {
        parameters.insert("connection_pool_size".to_string(), connections.clone());
    }
    if !parameters.contains_key("user") {
        return user_err!("{url}: who asks? Give user in a [[database]] of covey.toml, or set PGUSER");
    }
    let pool = PostgresConnectionPool::new(to_secret_map(parameters)).await.map_err(|e| told(url, &e))?;
    Ok(Arc::new(pool.with_unsupported_type_action(UnsupportedTypeAction::String)))
}

/// An error of the database or of the way to it, with all that led to it, in one line.
fn told(url: &Url, error: &(dyn std::error::Error + Send + Sync)) -> DataFusionError {
    let mut message = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        for line in error.to_string().lines().map(str::trim).filter(|line| !line.starts_with("For details")) {
            if !message.contains(line) {
                message = if message.is_empty() { line.to_string() } else { format!("{message}: {line}") };
            }
        }
        cause = error.source();
    }
    let hint = match message.contains("tls") || message.contains("TLS") || message.contains("certificate") {
        true => " (sslmode in [[database]] of covey.toml says whether TLS is used, and what is verified)",
        false => "",
    };
    crate::external(crate::UserError(format!("{url}: {message}{hint}")))
}
