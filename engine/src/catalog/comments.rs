//! What people have written about tables, views and their columns.

use std::collections::BTreeMap;

use datafusion::error::Result;
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::snapshot::Snapshot;
use crate::user_err;

/// Longest comment, in bytes.
pub const COMMENT_BYTES_MAX: usize = 4_000;

/// Of one table or view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comments {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
}

impl Comments {
    fn is_empty(&self) -> bool {
        self.own.is_none() && self.columns.is_empty()
    }
}

/// By schema and name.
pub(super) type AllComments = BTreeMap<String, BTreeMap<String, Comments>>;

impl Snapshot {
    pub fn comments(&self, schema: &str, name: &str) -> Option<&Comments> {
        self.all_comments().get(schema)?.get(name)
    }

    /// Sets the comment of a table or view, or takes it away. `kind` is what the statement calls it.
    ///
    /// # Errors
    /// When it is not there, or is something else.
    pub fn set_comment(&mut self, schema: &str, name: &str, kind: &str, comment: Option<&str>) -> Result<()> {
        match self.entry(schema, name) {
            Some(entry) if entry.kind() == kind => {}
            Some(entry) => {
                return user_err!("{name:?} is a {0}: use COMMENT ON {1}", entry.kind(), entry.kind().to_uppercase());
            }
            None => return user_err!("there is no {kind} {name:?} in schema {schema:?}"),
        }
        self.change_comments(schema, name, |comments| comments.own = comment.map(String::from));
        Ok(())
    }

    /// Sets the comment of a column, or takes it away.
    ///
    /// # Errors
    /// When there is no such table or view, or it has no such column.
    pub fn set_column_comment(&mut self, schema: &str, name: &str, column: &str, comment: Option<&str>) -> Result<()> {
        let Some(entry) = self.entry(schema, name) else {
            return user_err!("there is no table or view {name:?} in schema {schema:?}");
        };
        let columns: Vec<String> = columns(entry).into_iter().map(|(name, ..)| name).collect();
        if !columns.iter().any(|known| known == column) {
            return user_err!("{} {name:?} has no column {column:?}; it has {}", entry.kind(), columns.join(", "));
        }
        self.change_comments(schema, name, |comments| match comment {
            Some(comment) => drop(comments.columns.insert(column.to_string(), comment.to_string())),
            None => drop(comments.columns.remove(column)),
        });
        Ok(())
    }

    fn change_comments(&mut self, schema: &str, name: &str, change: impl FnOnce(&mut Comments)) {
        let of_schema = self.all_comments_mut().entry(schema.to_string()).or_default();
        let comments = of_schema.entry(name.to_string()).or_default();
        change(comments);
        if comments.is_empty() {
            self.forget_comments(schema, Some(name));
        }
    }

    /// Of a table or view, or of all in a schema.
    pub(super) fn forget_comments(&mut self, schema: &str, name: Option<&str>) {
        let all = self.all_comments_mut();
        if let (Some(name), Some(of_schema)) = (name, all.get_mut(schema)) {
            of_schema.remove(name);
        }
        if name.is_none() || all.get(schema).is_some_and(BTreeMap::is_empty) {
            all.remove(schema);
        }
    }
}

/// Name, type and nullability of the columns that are kept of a table or view. A column `date` that is made of year, month
/// and day is not among them.
pub fn columns(entry: &Entry) -> Vec<(String, String, bool)> {
    let (columns, partitions) = match entry {
        Entry::Table(table) => (&table.columns, table.partition_columns.as_slice()),
        Entry::View(view) => (&view.columns, [].as_slice()),
    };
    let of_directories = partitions.iter().map(super::entry::PartitionEntry::described);
    columns.iter().chain(of_directories).map(|c| (c.name.clone(), c.data_type.clone(), c.nullable)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::{ColumnEntry, ViewEntry};
    use super::super::snapshot::{IfTaken, PUBLIC};
    use super::*;

    /// Goal: comments stay with what they are about, are found wrong by name, and go with it.
    #[test]
    fn comments_come_and_go() {
        let column =
            ColumnEntry { name: "c".into(), data_type: "Int32".into(), nullable: true, metadata: BTreeMap::new() };
        let view = ViewEntry {
            definition: "CREATE VIEW".into(),
            default_schema: PUBLIC.into(),
            columns: vec![column],
            uses: vec![],
        };
        let mut snapshot = Snapshot::default();
        snapshot.put(PUBLIC, "v", Entry::View(view.clone()), IfTaken::Refuse).unwrap();
        let plain = snapshot.clone();
        snapshot.set_comment(PUBLIC, "v", "view", Some("what runs where")).unwrap();
        snapshot.set_column_comment(PUBLIC, "v", "c", Some("a number")).unwrap();
        let back = Snapshot::decode(&snapshot.encode().unwrap(), "file").unwrap();
        assert_eq!(back.comments(PUBLIC, "v").unwrap().own.as_deref(), Some("what runs where"));
        assert_eq!(back.comments(PUBLIC, "v").unwrap().columns["c"], "a number");
        let message = |result: Result<()>| result.unwrap_err().to_string();
        assert!(message(snapshot.set_comment(PUBLIC, "v", "table", None)).contains("use COMMENT ON VIEW"));
        assert!(message(snapshot.set_comment(PUBLIC, "w", "view", None)).contains("there is no view \"w\""));
        assert!(message(snapshot.set_column_comment(PUBLIC, "v", "d", None)).contains("no column \"d\"; it has c"));
        snapshot.put(PUBLIC, "v", Entry::View(view), IfTaken::Replace).unwrap();
        assert!(snapshot.comments(PUBLIC, "v").is_some(), "as psql's, they outlive CREATE OR REPLACE");
        snapshot.set_comment(PUBLIC, "v", "view", None).unwrap();
        snapshot.set_column_comment(PUBLIC, "v", "c", None).unwrap();
        assert_eq!(snapshot, plain);
        snapshot.set_comment(PUBLIC, "v", "view", Some("x")).unwrap();
        snapshot.remove(PUBLIC, "v", "view", false).unwrap();
        assert_eq!(snapshot.comments(PUBLIC, "v"), None);
    }
}
