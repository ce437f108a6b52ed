//! The file `covey.toml`: what a process is told that must not be in a statement, such as the keys of stores.
//!
//! Every process reads a file of its own, when it starts. Nothing of it goes into plans, logs, errors or answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use serde::Deserialize;
use url::Url;

use crate::user_err;

/// Read from the working directory where no other file is named.
const FILE_DEFAULT: &str = "covey.toml";

/// An option whose name ends so names a file that holds the value.
const FILE_SUFFIX: &str = "_file";

/// Options of object stores that are files by themselves.
const FILES_BY_THEMSELVES: [&str; 3] =
    ["web_identity_token_file", "container_authorization_token_file", "federated_token_file"];

#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub stores: Vec<StoreSettings>,
    pub databases: Vec<DatabaseSettings>,
}

/// Settings of the stores whose URLs begin with `scope`.
#[derive(Clone)]
pub struct StoreSettings {
    pub scope: String,
    /// By the names that `object_store` has for them.
    pub options: BTreeMap<String, String>,
    /// For how long a request is tried again.
    pub retry_seconds: Option<u64>,
}

/// Settings of the databases whose URLs begin with `scope`.
#[derive(Clone)]
pub struct DatabaseSettings {
    pub scope: String,
    /// `user`, `pass`, `sslmode`, `sslrootcert`, `connections`.
    pub options: BTreeMap<String, String>,
}

/// Shows names and no values: some are secret.
impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("scope", &self.scope)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Shows names and no values: some are secret.
impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSettings")
            .field("scope", &self.scope)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    store: Vec<StoreTable>,
    #[serde(default)]
    database: Vec<DatabaseTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatabaseTable {
    scope: String,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    connections: Option<u32>,
}

#[derive(Deserialize)]
struct StoreTable {
    scope: String,
    retry_seconds: Option<u64>,
    #[serde(flatten)]
    options: BTreeMap<String, toml::Value>,
}

impl Settings {
    /// Those of `file`, or of `covey.toml` in the working directory if it is there.
    ///
    /// # Errors
    /// Names the file, and in it what is wrong; never a value.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let path = match file {
            Some(path) => path.to_path_buf(),
            None if Path::new(FILE_DEFAULT).exists() => PathBuf::from(FILE_DEFAULT),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| exec_datafusion_err!("cannot read the settings {}: {e}", path.display()))?;
        // The error's own text shows the line, and a key may be in it.
        let parsed: std::result::Result<File, toml::de::Error> = toml::from_str(&text);
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
                return user_err!("settings {}, line {line}: {}", path.display(), error.message());
            }
        };
        let stores = parsed.store.into_iter().map(|table| table.read(&path)).collect::<Result<_>>()?;
        let databases = parsed.database.into_iter().map(|table| table.read(&path)).collect::<Result<_>>()?;
        Ok(Self { stores, databases })
    }

    /// Of the databases of `url`, those with the longest scope.
    pub fn database(&self, url: &Url) -> Option<&DatabaseSettings> {
        let fits = |database: &&DatabaseSettings| {
            let rest = url.as_str().strip_prefix(&database.scope);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || database.scope.ends_with("://"))
        };
        self.databases.iter().filter(fits).max_by_key(|database| database.scope.len())
    }

    /// Of the stores of `url`, those with the longest scope.
    pub fn store(&self, url: &Url) -> Option<&StoreSettings> {
        let fits = |store: &&StoreSettings| {
            let root = &url[..url::Position::BeforePath];
            store.scope == format!("{}://", url.scheme()) || root == store.scope
        };
        self.stores.iter().filter(fits).max_by_key(|store| store.scope.len())
    }
}

impl StoreTable {
    fn read(self, file: &Path) -> Result<StoreSettings> {
        let is_scheme = self.scope.strip_suffix("://").is_some_and(|scheme| !scheme.is_empty());
        let scope = self.scope.trim_end_matches('/');
        let is_bucket = Url::parse(scope).is_ok_and(|url| url.has_host() && url.path().trim_matches('/').is_empty());
        if !is_scheme && !is_bucket {
            return user_err!(
                "settings {}: scope {:?} is neither a bucket such as \"s3://insights\" nor all of a kind such as \"s3://\"",
                file.display(),
                self.scope
            );
        }
        let mut options = BTreeMap::new();
        for (name, value) in self.options {
            let (name, value) = option(&name, value, &self.scope, file)?;
            options.insert(name, value);
        }
        // s3a is Hadoop's word for s3.
        let scope = if is_scheme { self.scope.as_str() } else { scope };
        let scope = scope.strip_prefix("s3a://").map_or(scope.to_string(), |bucket| format!("s3://{bucket}"));
        Ok(StoreSettings { scope, options, retry_seconds: self.retry_seconds })
    }
}

impl DatabaseTable {
    fn read(self, file: &Path) -> Result<DatabaseSettings> {
        let scope = self.scope.replacen("postgresql://", "postgres://", 1);
        let is_place = Url::parse(&scope).is_ok_and(|url| url.username().is_empty() && url.password().is_none());
        if !scope.starts_with("postgres://") || !is_place && scope != "postgres://" {
            return user_err!(
                "settings {}: the scope of a database is \"postgres://host:5432/database\", a part of that from its beginning, or \"postgres://\"",
                file.display()
            );
        }
        let password = match (self.password, self.password_file) {
            (Some(_), Some(_)) => {
                return user_err!("settings {}: {scope} has password and password_file", file.display());
            }
            (Some(password), None) => Some(password),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(content) => Some(content.trim().to_string()),
                Err(e) => {
                    let path = path.display();
                    return user_err!("settings {}: cannot read {path}, the password of {scope}: {e}", file.display());
                }
            },
            (None, None) => None,
        };
        let given = [
            ("user", self.user),
            ("pass", password),
            ("sslmode", self.sslmode),
            ("sslrootcert", self.sslrootcert),
            ("connections", self.connections.map(|n| n.to_string())),
        ];
        let options = given.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect();
        let scope = if scope == "postgres://" { scope } else { scope.trim_end_matches('/').to_string() };
        Ok(DatabaseSettings { scope, options })
    }
}

/// An option as `object_store` knows it.
fn option(name: &str, value: toml::Value, scope: &str, file: &Path) -> Result<(String, String)> {
    let value = match value {
        toml::Value::String(text) => text,
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Integer(number) => number.to_string(),
        _ => return user_err!("settings {}: {name:?} of {scope} is no text, number or flag", file.display()),
    };
    if name == "anonymous" {
        return Ok(("skip_signature".to_string(), value));
    }
    let Some(name) = name.strip_suffix(FILE_SUFFIX).filter(|_| !FILES_BY_THEMSELVES.contains(&name)) else {
        return Ok((name.to_string(), value));
    };
    match std::fs::read_to_string(&value) {
        Ok(content) => Ok((name.to_string(), content.trim().to_string())),
        Err(e) => user_err!("settings {}: cannot read {value}, the {name} of {scope}: {e}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("covey.toml");
        std::fs::write(&file, text).unwrap();
        Settings::read(Some(&file))
    }

    /// Goal: the longest scope counts, secrets may lie in files, and none is shown.
    #[test]
    fn scopes_and_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "hidden\n").unwrap();
        let text = format!(
            "[[store]]\nscope = 's3://'\nendpoint = 'http://ceph:7480'\n\
             [[store]]\nscope = 's3a://insights/'\naccess_key_id = 'me'\nsecret_access_key_file = '{}'\n\
             [[store]]\nscope = 's3://open'\nanonymous = true\n",
            key.display()
        );
        let settings = read(&text).unwrap();
        let options = |url: &str| settings.store(&Url::parse(url).unwrap()).map(|store| store.options.clone());
        assert_eq!(options("s3://insights/a").unwrap()["secret_access_key"], "hidden");
        assert_eq!(options("s3://open/a").unwrap()["skip_signature"], "true");
        assert_eq!(options("s3://other/a").unwrap()["endpoint"], "http://ceph:7480");
        assert_eq!(options("gs://other/a"), None);
        assert!(!format!("{settings:?}").contains("hidden"));

        let text = format!(
            "[[database]]\nscope = 'postgres://'\nuser = 'me'\n\
             [[database]]\nscope = 'postgresql://db:5432/crm/'\nuser = 'you'\npassword_file = '{}'\n",
            key.display()
        );
        let settings = read(&text).unwrap();
        let options = |url: &str| settings.database(&Url::parse(url).unwrap()).map(|found| found.options.clone());
        assert_eq!(options("postgres://db:5432/crm").unwrap()["pass"], "hidden");
        assert_eq!(options("postgres://db:5432/crm2").unwrap()["user"], "me");
        assert_eq!(options("mysql://db/crm"), None);
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    /// Goal: what is wrong is named by file and line, and no value is shown.
    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("[[store]]\nscope = 's3://a'\nsecret_access_key = 'hidden\n", "line 3"),
            ("[[shop]]\nscope = 'hidden'\n", "shop"),
            ("[[store]]\nscope = 's3://a/hidden/b'\n", "bucket"),
            ("[[store]]\nscope = 's3://a'\nregion = ['hidden']\n", "region"),
            ("[[store]]\nscope = 's3://a'\ntoken_file = '/not/there'\n", "/not/there"),
            ("[[store]]\nendpoint = 'hidden'\n", "scope"),
            ("[[database]]\nscope = 'db'\npassword = 'hidden'\n", "postgres://host:5432/database"),
            ("[[database]]\nscope = 'postgres://me:hidden@db/crm'\n", "the scope of a database"),
            ("[[database]]\nscope = 'postgres://db'\npasswort = 'hidden'\n", "passwort"),
            ("[[database]]\nscope = 'postgres://db'\npassword_file = '/not/there'\n", "/not/there"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains("covey.toml") && message.contains(expected), "{message}");
            assert!(text.contains("s3://a/hidden") || !message.contains("hidden"), "{message}");
        }
        assert!(
            Settings::read(Some(Path::new("/not/there.toml"))).unwrap_err().to_string().contains("/not/there.toml")
        );
    }
}
