//! What the catalog keeps of a function that was made by CREATE FUNCTION.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionEntry {
    pub parameters: Vec<ParameterEntry>,
    /// A type in SQL; without one it is that of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<String>,
    /// An expression over the parameters.
    pub body: String,
    /// Functions of the catalog that the body calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// The statement that made it.
    pub definition: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterEntry {
    pub name: String,
    /// A type in SQL; without one it is that of the argument.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
}
