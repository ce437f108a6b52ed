//! A text of SQL as a tree, so that it can be made smaller piece by piece.

use std::fmt;

/// What values an expression has. The names are those of SQL's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    BigInt,
    Double,
    Decimal,
    Varchar,
    Date,
    Timestamp,
    Boolean,
    /// A list of BIGINT.
    List,
}

impl Type {
    /// As SQL writes it, in DataFusion and in DuckDB alike.
    pub fn name(self) -> &'static str {
        match self {
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Decimal => "DECIMAL(12, 2)",
            Self::Varchar => "VARCHAR",
            Self::Date => "DATE",
            Self::Timestamp => "TIMESTAMP",
            Self::Boolean => "BOOLEAN",
            Self::List => "BIGINT[]",
        }
    }
}

/// How a part of a text may be made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only by what is inside it.
    Fixed,
    /// It may be left out.
    Optional,
    /// Any of its parts may be left out but the last that remains; what stands between two parts is given.
    List(&'static str),
    /// A part of the same type, or NULL, may take its place.
    Expression(Type),
    /// A whole query: one inside it may take its place.
    Query,
    /// What stands after FROM: a source inside it may take its place.
    Source,
}

#[derive(Debug, Clone)]
pub enum Part {
    Text(String),
    /// A value that a prepared statement may get as a parameter.
    Value(i64),
    Node(Node),
}

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    pub parts: Vec<Part>,
}

/// Builds a [`Node`] of texts and other nodes.
#[macro_export]
macro_rules! node {
    ($kind:expr $(, $part:expr)* $(,)?) => {
        $crate::queries::node::Node { kind: $kind, parts: vec![$($crate::queries::node::Part::from($part)),*] }
    };
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Part {
    fn from(value: i64) -> Self {
        Self::Value(value)
    }
}

impl From<Node> for Part {
    fn from(node: Node) -> Self {
        Self::Node(node)
    }
}

impl Node {
    pub fn list(separator: &'static str, nodes: Vec<Self>) -> Self {
        Self { kind: Kind::List(separator), parts: nodes.into_iter().map(Part::Node).collect() }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { kind: Kind::Fixed, parts: vec![] }
    }

    /// The text with a parameter for each of its values that can be one, and these values.
    pub fn with_parameters(&self) -> (String, Vec<i64>) {
        let (mut text, mut values) = (String::new(), vec![]);
        self.write(&mut text, &mut |text, value| {
            values.push(value);
            text.push_str(&format!("${}", values.len()));
        });
        (text, values)
    }

    fn write(&self, text: &mut String, value: &mut impl FnMut(&mut String, i64)) {
        let separator = if let Kind::List(separator) = self.kind { separator } else { "" };
        for (i, part) in self.parts.iter().enumerate() {
            if i > 0 {
                text.push_str(separator);
            }
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value(part) => value(text, *part),
                Part::Node(part) => part.write(text, value),
            }
        }
    }

    /// Every tree that is one step smaller, those that lose most first.
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = vec![];
        match self.kind {
            Kind::Optional if !self.parts.is_empty() => found.push(Self { kind: self.kind, parts: vec![] }),
            Kind::List(_) if self.parts.len() > 1 => {
                for i in 0..self.parts.len() {
                    let mut parts = self.parts.clone();
                    parts.remove(i);
                    found.push(Self { kind: self.kind, parts });
                }
            }
            Kind::Expression(of) => {
                let null = node!(self.kind, format!("CAST(NULL AS {})", of.name()));
                if self.to_string().len() > null.to_string().len() {
                    found.push(null);
                }
                found.extend(self.inside(&|kind| kind == self.kind));
            }
            Kind::Query | Kind::Source => found.extend(self.inside(&|kind| kind == self.kind)),
            _ => {}
        }
        for (i, part) in self.parts.iter().enumerate() {
            let Part::Node(node) = part else { continue };
            for smaller in node.smaller() {
                let mut parts = self.parts.clone();
                parts[i] = Part::Node(smaller);
                found.push(Self { kind: self.kind, parts });
            }
        }
        found
    }

    /// The outermost nodes inside this one that `wanted` asks for.
    fn inside(&self, wanted: &dyn Fn(Kind) -> bool) -> Vec<Self> {
        let mut found = vec![];
        for part in &self.parts {
            let Part::Node(node) = part else { continue };
            if wanted(node.kind) {
                found.push(node.clone());
            } else {
                found.extend(node.inside(wanted));
            }
        }
        found
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, &mut |text, value| text.push_str(&value.to_string()));
        f.write_str(&text)
    }
}
