//! Random queries over the tables of a seed.
//!
//! Every query has one right answer: where the order of rows matters to a value, the rows are ordered by columns that are
//! different in each of them.

use super::node::{Kind, Node, Part, Type};
use super::tables::{COLUMNS, Table};
use crate::node;
use crate::random::Random;

/// Rows that a join without a key, or of keys that repeat, may look at.
const PAIRS_MAX: u64 = 100_000;

/// How deep queries and expressions may be nested.
const QUERY_DEPTH: u32 = 2;
const EXPRESSION_DEPTH: u32 = 2;

/// A query and what is known of its rows.
#[derive(Debug, Clone)]
pub struct Query {
    pub body: Node,
    /// The columns by which the rows are ordered; none for rows in any order.
    pub order: Vec<OrderKey>,
    /// Rows that are left out, and rows that are given at the most.
    pub limit: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderKey {
    pub column: String,
    pub is_descending: bool,
    pub nulls_first: bool,
}

/// What a seed asks.
#[derive(Debug, Clone)]
pub enum Question {
    /// Judges say what is right.
    Query(Query),
    /// Two queries that have the same answer in any engine.
    Same(Query, Query),
}

impl Query {
    fn unordered(body: Node) -> Self {
        Self { body, order: vec![], limit: None }
    }

    fn tail(&self) -> String {
        let keys: Vec<String> = self.order.iter().map(OrderKey::to_sql).collect();
        let order = if keys.is_empty() { String::new() } else { format!(" ORDER BY {}", keys.join(", ")) };
        match self.limit {
            Some((0, rows)) => format!("{order} LIMIT {rows}"),
            Some((offset, rows)) => format!("{order} LIMIT {rows} OFFSET {offset}"),
            None => order,
        }
    }

    pub fn to_sql(&self) -> String {
        format!("{}{}", self.body, self.tail())
    }

    /// The text with `$1`, `$2` and so on, and the values that are to be bound to them.
    pub fn with_parameters(&self) -> (String, Vec<i64>) {
        let (text, values) = self.body.with_parameters();
        (text + &self.tail(), values)
    }

    /// Every query that is one step smaller.
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = vec![];
        if self.limit.is_some() {
            found.push(Self { limit: None, ..self.clone() });
        } else if !self.order.is_empty() {
            found.push(Self { order: vec![], ..self.clone() });
        }
        found.extend(self.body.smaller().into_iter().map(|body| Self { body, ..self.clone() }));
        found
    }
}

impl OrderKey {
    fn to_sql(&self) -> String {
        let direction = if self.is_descending { "DESC" } else { "ASC" };
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        format!("{} {direction} NULLS {nulls}", self.column)
    }
}

/// What a source offers to the expressions over it.
#[derive(Debug, Clone)]
struct Scope {
    columns: Vec<(String, Type)>,
    /// Columns that together are different in each row, where such are known.
    unique: Option<Vec<String>>,
    /// Rows at the most.
    rows: u64,
}

impl Scope {
    fn of(&self, wanted: Type) -> Vec<&str> {
        let fitting = self.columns.iter().filter(|(_, of)| *of == wanted);
        fitting.map(|(name, _)| name.as_str()).collect()
    }
}

/// A query as a part of another.
struct Inner {
    node: Node,
    columns: Vec<(String, Type)>,
    unique: Option<Vec<String>>,
    rows: u64,
}

pub struct Generator<'a> {
    random: Random,
    tables: &'a [Table],
    /// Names that a query of this statement may read besides the tables.
    ctes: Vec<(String, Scope)>,
    aliases: usize,
}

impl<'a> Generator<'a> {
    pub fn new(random: Random, tables: &'a [Table]) -> Self {
        Self { random, tables, ctes: vec![], aliases: 0 }
    }

    pub fn question(&mut self) -> Question {
        match self.random.below(100) {
            0..6 => self.partition_question(),
            6..10 => self.count_question(),
            _ => Question::Query(self.query()),
        }
    }

    /// Rows where a condition holds, where it does not and where it is NULL are all rows (ternary logic partitioning).
    fn partition_question(&mut self) -> Question {
        let (source, scope) = self.source(1);
        let named = scope.columns.iter().enumerate().map(|(i, (name, _))| format!("{name} AS c{i}"));
        let columns: Vec<Node> = named.map(|column| node!(Kind::Fixed, column)).collect();
        let columns = Node::list(", ", columns);
        let condition = self.boolean(&scope, EXPRESSION_DEPTH);
        let part = |test: &str| {
            node!(
                Kind::Fixed,
                "SELECT ",
                columns.clone(),
                " FROM ",
                source.clone(),
                " WHERE (",
                condition.clone(),
                test
            )
        };
        let parts =
            node!(Kind::Query, part(") IS TRUE"), " UNION ALL ", part(") IS FALSE"), " UNION ALL ", part(") IS NULL"));
        let whole = node!(Kind::Query, "SELECT ", columns.clone(), " FROM ", source.clone());
        Question::Same(Query::unordered(whole), Query::unordered(parts))
    }

    /// Rows that a filter leaves are those for which CASE says so, where nothing can be pushed down.
    fn count_question(&mut self) -> Question {
        let (source, scope) = self.source(1);
        let condition = self.boolean(&scope, EXPRESSION_DEPTH);
        let filtered = node!(Kind::Query, "SELECT count(*) AS c0 FROM ", source.clone(), " WHERE ", condition.clone());
        let counted = node!(
            Kind::Query,
            "SELECT coalesce(sum(CASE WHEN ",
            condition,
            " THEN 1 ELSE 0 END), 0) AS c0 FROM ",
            source
        );
        Question::Same(Query::unordered(filtered), Query::unordered(counted))
    }

    fn query(&mut self) -> Query {
        let with = self.random.chance(15).then(|| self.with_clause());
        let inner = self.inner_query(QUERY_DEPTH, None);
        let body = match with {
            Some(with) => node!(Kind::Query, with, inner.node),
            None => inner.node,
        };
        let names = inner.columns;
        let is_orderable = names.iter().all(|(_, of)| *of != Type::List);
        let mut order = vec![];
        let mut limit = None;
        if self.random.chance(50) {
            let mut columns: Vec<_> = names.iter().filter(|(_, of)| *of != Type::List).collect();
            while !columns.is_empty() {
                let (column, _) = columns.remove(self.random.below(columns.len() as u64) as usize);
                order.push(OrderKey {
                    column: column.clone(),
                    is_descending: self.random.chance(50),
                    nulls_first: self.random.chance(50),
                });
            }
            if is_orderable && self.random.chance(50) {
                let offset = if self.random.chance(30) { self.random.below(20) } else { 0 };
                limit = Some((offset, *self.random.pick(&[0, 1, 3, 10, 100])));
            } else if self.random.chance(50) {
                order.truncate(1 + self.random.below(2) as usize);
            }
        }
        Query { body, order, limit }
    }

    fn with_clause(&mut self) -> Node {
        let inner = self.inner_query(1, None);
        let name = self.alias("w");
        let scope = Scope { columns: inner.columns, unique: inner.unique, rows: inner.rows };
        self.ctes.push((name.clone(), scope));
        node!(Kind::Fixed, format!("WITH {name} AS ("), inner.node, ") ")
    }

    /// A query of the given column types, or of any.
    fn inner_query(&mut self, depth: u32, types: Option<&[Type]>) -> Inner {
        match self.random.below(100) {
            0..14 if depth > 0 => self.set_operation(depth, types),
            14..34 => self.grouped(depth, types),
            34..54 => self.windowed(depth, types),
            _ => self.plain(depth, types),
        }
    }

    fn set_operation(&mut self, depth: u32, types: Option<&[Type]>) -> Inner {
        let types: Vec<Type> = match types {
            Some(types) => types.to_vec(),
            None => (0..1 + self.random.below(3)).map(|_| self.value_type()).collect(),
        };
        let operation = *self.random.pick(&["UNION ALL", "UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
        let branches: Vec<Inner> = (0..2 + self.random.below(2) / 2).map(|_| self.branch(depth, &types)).collect();
        let rows = branches.iter().map(|branch| branch.rows).sum();
        let columns = branches[0].columns.clone();
        let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        let separator = match operation {
            "UNION ALL" => ") UNION ALL (",
            "UNION" => ") UNION (",
            "INTERSECT" => ") INTERSECT (",
            _ => ") EXCEPT (",
        };
        let list = Node::list(separator, branches.into_iter().map(|branch| branch.node).collect());
        // The names of a set operation in parentheses are those of its first branch.
        let text: Vec<String> = names.iter().map(|name| format!("q.{name} AS {name}")).collect();
        let alias = self.alias("q");
        let text = text.join(", ").replace("q.", &format!("{alias}."));
        let node = node!(Kind::Query, format!("SELECT {text} FROM (("), list, format!(")) AS {alias}"));
        let unique = (operation != "UNION ALL").then_some(names);
        Inner { node, columns, unique, rows }
    }

    /// One side of a set operation: constants, or a query.
    fn branch(&mut self, depth: u32, types: &[Type]) -> Inner {
        if !self.random.chance(25) {
            return self.inner_query(depth - 1, Some(types));
        }
        let columns = names(types);
        let items = columns.iter().map(|(name, of)| node!(Kind::Fixed, self.constant(*of), format!(" AS {name}")));
        let items: Vec<Node> = items.collect();
        let node = node!(Kind::Query, "SELECT ", Node::list(", ", items));
        Inner { node, columns, unique: None, rows: 1 }
    }

    fn plain(&mut self, depth: u32, types: Option<&[Type]>) -> Inner {
        let (source, scope) = self.source(depth);
        let types = self.types_or(types, 4);
        let columns = names(&types);
        let items: Vec<Node> = columns
            .iter()
            .map(|(name, of)| {
                let item = if self.random.chance(6) && *of == Type::BigInt {
                    self.scalar_subquery(&scope)
                } else {
                    self.expression(*of, &scope, EXPRESSION_DEPTH)
                };
                node!(Kind::Fixed, item, format!(" AS {name}"))
            })
            .collect();
        let is_distinct = self.random.chance(20) && !types.contains(&Type::List);
        let condition = self.where_clause(&scope);
        let distinct = node!(Kind::Optional, if is_distinct { "DISTINCT " } else { "" });
        let node = node!(Kind::Query, "SELECT ", distinct, Node::list(", ", items), " FROM ", source, condition);
        let unique = is_distinct.then(|| columns.iter().map(|(name, _)| name.clone()).collect());
        Inner { node, columns, unique, rows: scope.rows }
    }

    fn grouped(&mut self, depth: u32, types: Option<&[Type]>) -> Inner {
        let (source, scope) = self.source(depth);
        let types = self.types_or(types, 4);
        let columns = names(&types);
        let n_keys = self.random.below(types.len() as u64 + 1) as usize;
        let mut items = vec![];
        let mut keys = vec![];
        for (name, of) in &columns[..n_keys] {
            let key = if *of == Type::List { self.column(*of, &scope) } else { self.expression(*of, &scope, 1) };
            items.push(node!(Kind::Fixed, key.clone(), format!(" AS {name}")));
            keys.push(key);
        }
        for (name, of) in &columns[n_keys..] {
            items.push(node!(Kind::Fixed, self.aggregate(*of, &scope), format!(" AS {name}")));
        }
        let condition = self.where_clause(&scope);
        let (group, is_plain) = self.group_clause(keys);
        let having = if self.random.chance(20) {
            let condition = self.aggregate(Type::BigInt, &scope);
            node!(Kind::Optional, " HAVING ", condition, " > ", self.random.below(4) as i64)
        } else {
            Node::none()
        };
        let node = node!(Kind::Query, "SELECT ", Node::list(", ", items), " FROM ", source, condition, group, having);
        let unique = (is_plain && n_keys > 0).then(|| columns[..n_keys].iter().map(|(name, _)| name.clone()).collect());
        Inner { node, columns, unique, rows: scope.rows + 8 }
    }

    /// GROUP BY, and whether each group is there once.
    fn group_clause(&mut self, keys: Vec<Node>) -> (Node, bool) {
        if keys.is_empty() {
            let is_set = self.random.chance(8);
            return (node!(Kind::Optional, if is_set { " GROUP BY GROUPING SETS (())" } else { "" }), true);
        }
        let n = keys.len();
        match self.random.below(100) {
            0..10 => (node!(Kind::Fixed, " GROUP BY ROLLUP (", Node::list(", ", keys), ")"), false),
            10..15 if n < 4 => (node!(Kind::Fixed, " GROUP BY CUBE (", Node::list(", ", keys), ")"), false),
            15..25 => {
                let mut sets: Vec<Node> = keys.iter().map(|key| node!(Kind::Fixed, "(", key.clone(), ")")).collect();
                if self.random.chance(50) {
                    sets.push(node!(Kind::Fixed, "(", Node::list(", ", keys), ")"));
                }
                if self.random.chance(50) {
                    sets.push(node!(Kind::Fixed, "()"));
                }
                (node!(Kind::Fixed, " GROUP BY GROUPING SETS (", Node::list(", ", sets), ")"), false)
            }
            _ => (node!(Kind::Fixed, " GROUP BY ", Node::list(", ", keys)), true),
        }
    }

    fn windowed(&mut self, depth: u32, types: Option<&[Type]>) -> Inner {
        let (source, scope) = self.source(depth);
        let types = self.types_or(types, 3);
        let columns = names(&types);
        let items: Vec<Node> = columns
            .iter()
            .map(|(name, of)| {
                let item =
                    if self.random.chance(65) { self.window(*of, &scope) } else { self.expression(*of, &scope, 1) };
                node!(Kind::Fixed, item, format!(" AS {name}"))
            })
            .collect();
        let condition = self.where_clause(&scope);
        let qualify = if self.random.chance(10) {
            node!(Kind::Optional, " QUALIFY ", self.window(Type::BigInt, &scope), " > ", self.random.below(3) as i64)
        } else {
            Node::none()
        };
        let is_distinct = self.random.chance(10) && !types.contains(&Type::List);
        let distinct = node!(Kind::Optional, if is_distinct { "DISTINCT " } else { "" });
        let node =
            node!(Kind::Query, "SELECT ", distinct, Node::list(", ", items), " FROM ", source, condition, qualify);
        Inner { node, columns, unique: None, rows: scope.rows }
    }

    fn types_or(&mut self, types: Option<&[Type]>, most: u64) -> Vec<Type> {
        match types {
            Some(types) => types.to_vec(),
            None => (0..1 + self.random.below(most)).map(|_| self.any_type()).collect(),
        }
    }

    fn any_type(&mut self) -> Type {
        if self.random.chance(4) { Type::List } else { self.value_type() }
    }

    /// A type whose values can be compared.
    fn value_type(&mut self) -> Type {
        use Type::{BigInt, Boolean, Date, Decimal, Double, Timestamp, Varchar};
        *self
            .random
            .pick(&[BigInt, BigInt, BigInt, BigInt, Double, Decimal, Varchar, Varchar, Date, Timestamp, Boolean])
    }

    fn alias(&mut self, prefix: &str) -> String {
        self.aliases += 1;
        format!("{prefix}{}", self.aliases)
    }

    // What stands after FROM.

    fn source(&mut self, depth: u32) -> (Node, Scope) {
        match self.random.below(100) {
            0..40 if depth > 0 => self.join(depth),
            40..52 if depth > 0 => self.derived(depth),
            52..56 => self.values(),
            56..70 if !self.ctes.is_empty() => self.cte(),
            _ => self.table(),
        }
    }

    fn table(&mut self) -> (Node, Scope) {
        let table = self.random.pick(self.tables).clone();
        let alias = self.alias("a");
        let columns = COLUMNS.iter().map(|(name, of)| (format!("{alias}.{name}"), *of)).collect();
        let unique = Some(vec![format!("{alias}.id")]);
        let rows = table.rows() as u64;
        (node!(Kind::Source, format!("{} AS {alias}", table.name)), Scope { columns, unique, rows })
    }

    fn cte(&mut self) -> (Node, Scope) {
        let (name, scope) = self.random.pick(&self.ctes).clone();
        let alias = self.alias("a");
        (node!(Kind::Source, format!("{name} AS {alias}")), renamed(&alias, scope.columns, scope.unique, scope.rows))
    }

    fn derived(&mut self, depth: u32) -> (Node, Scope) {
        let inner = self.inner_query(depth - 1, None);
        let alias = self.alias("a");
        let scope = renamed(&alias, inner.columns, inner.unique, inner.rows);
        (node!(Kind::Source, "(", inner.node, format!(") AS {alias}")), scope)
    }

    fn values(&mut self) -> (Node, Scope) {
        let alias = self.alias("a");
        let types = [Type::BigInt, self.value_type()];
        let rows = 1 + self.random.below(4);
        let rows_of_values: Vec<Node> = (0..rows)
            .map(|_| {
                let values = types.iter().map(|of| self.constant(*of)).collect();
                node!(Kind::Fixed, "(", Node::list(", ", values), ")")
            })
            .collect();
        let columns = vec![(format!("{alias}.v"), types[0]), (format!("{alias}.w"), types[1])];
        let node = node!(Kind::Source, "(VALUES ", Node::list(", ", rows_of_values), format!(") AS {alias}(v, w)"));
        (node, Scope { columns, unique: None, rows })
    }

    fn join(&mut self, depth: u32) -> (Node, Scope) {
        let (left_node, left) = self.source(depth - 1);
        let (right_node, right) = self.source(depth - 1);
        // A join on the right side of another is in parentheses.
        let right_node = match right_node.parts.first() {
            Some(Part::Node(_)) => node!(Kind::Source, "(", right_node, ")"),
            _ => right_node,
        };
        let pairs = left.rows.saturating_mul(right.rows);
        let both = Scope {
            columns: [left.columns.clone(), right.columns.clone()].concat(),
            unique: left.unique.clone().zip(right.unique.clone()).map(|(left, right)| [left, right].concat()),
            rows: pairs,
        };
        if pairs > PAIRS_MAX {
            let ids = |scope: &Scope| scope.columns.iter().find(|(name, _)| name.ends_with(".id")).cloned();
            let (Some((left_id, _)), Some((right_id, _))) = (ids(&left), ids(&right)) else {
                return (left_node, left);
            };
            let kind = self.join_kind();
            let on = node!(Kind::Expression(Type::Boolean), format!("{left_id} = {right_id}"));
            let rows = left.rows.max(right.rows) * 2;
            return (node!(Kind::Source, left_node, kind, right_node, " ON ", on), Scope { rows, ..both });
        }
        if self.random.chance(6) {
            return (node!(Kind::Source, left_node, " CROSS JOIN ", right_node), both);
        }
        let kind = self.join_kind();
        let on = self.join_condition(&left, &right, &both);
        (node!(Kind::Source, left_node, kind, right_node, " ON ", on), both)
    }

    fn join_kind(&mut self) -> &'static str {
        self.random.pick::<&str>(&[" JOIN ", " LEFT JOIN ", " LEFT JOIN ", " RIGHT JOIN ", " FULL JOIN "])
    }

    fn join_condition(&mut self, left: &Scope, right: &Scope, both: &Scope) -> Node {
        let of = self.value_type();
        let (left_key, right_key) = match (left.of(of).first(), right.of(of).first()) {
            (Some(_), Some(_)) => (self.column(of, left), self.column(of, right)),
            _ => (self.expression(of, left, 1), self.expression(of, right, 1)),
        };
        let boolean = Kind::Expression(Type::Boolean);
        match self.random.below(100) {
            0..55 => node!(boolean, left_key, " = ", right_key),
            55..70 => {
                let filter = self.comparison(both, 1);
                node!(boolean, node!(boolean, left_key, " = ", right_key), " AND ", filter)
            }
            70..80 => {
                let operator = *self.random.pick(&[" < ", " <= ", " <> "]);
                node!(boolean, left_key, operator, right_key)
            }
            80..86 => node!(boolean, left_key, " IS NOT DISTINCT FROM ", right_key),
            86..90 => node!(boolean, *self.random.pick(&["TRUE", "FALSE", "1 = 1"])),
            _ => self.comparison(both, 1),
        }
    }

    fn where_clause(&mut self, scope: &Scope) -> Node {
        if self.random.chance(55) {
            return Node::none();
        }
        // Conditions that hold for every row of a group, and such as hold for none.
        let condition = match self.random.below(100) {
            0..12 => {
                let key = self.column(Type::BigInt, scope);
                node!(Kind::Expression(Type::Boolean), key, " = ", self.random.below(5) as i64)
            }
            12..18 => node!(Kind::Expression(Type::Boolean), self.column(Type::BigInt, scope), " > ", 1_000_000),
            18..60 => self.subquery_condition(scope),
            _ => self.boolean(scope, EXPRESSION_DEPTH),
        };
        node!(Kind::Optional, " WHERE ", condition)
    }

    // Conditions.

    fn boolean(&mut self, scope: &Scope, depth: u32) -> Node {
        let boolean = Kind::Expression(Type::Boolean);
        match self.random.below(100) {
            0..12 if depth > 0 => {
                node!(boolean, "(", self.boolean(scope, depth - 1), " AND ", self.boolean(scope, depth - 1), ")")
            }
            12..24 if depth > 0 => {
                node!(boolean, "(", self.boolean(scope, depth - 1), " OR ", self.boolean(scope, depth - 1), ")")
            }
            24..30 if depth > 0 => node!(boolean, "(NOT ", self.boolean(scope, depth - 1), ")"),
            30..40 => self.column(Type::Boolean, scope),
            _ => self.comparison(scope, depth),
        }
    }

    fn comparison(&mut self, scope: &Scope, depth: u32) -> Node {
        let boolean = Kind::Expression(Type::Boolean);
        let of = self.value_type();
        let left = self.expression(of, scope, depth.saturating_sub(1));
        match self.random.below(100) {
            0..12 => node!(boolean, "(", left, *self.random.pick(&[" IS NULL", " IS NOT NULL"]), ")"),
            12..24 => {
                let values = (0..1 + self.random.below(4)).map(|_| self.constant(of)).collect();
                let operator = *self.random.pick(&[" IN (", " NOT IN ("]);
                node!(boolean, "(", left, operator, Node::list(", ", values), "))")
            }
            24..32 => {
                let (low, high) = (self.constant(of), self.constant(of));
                node!(boolean, "(", left, " BETWEEN ", low, " AND ", high, ")")
            }
            32..40 if of == Type::Varchar => {
                node!(boolean, "(", left, *self.random.pick(&[" LIKE '%a%'", " NOT LIKE 'a_'", " LIKE '_'"]), ")")
            }
            40..50 => {
                let operator = *self.random.pick(&[" IS DISTINCT FROM ", " IS NOT DISTINCT FROM "]);
                node!(boolean, "(", left, operator, self.expression(of, scope, 0), ")")
            }
            50..56 if of == Type::Decimal => {
                let number = format!("{}.{:02}", self.random.below(90), self.random.below(100));
                node!(boolean, "(", left, *self.random.pick(&[" = ", " < ", " >= "]), number, ")")
            }
            _ => {
                let operator = *self.random.pick(&[" = ", " <> ", " < ", " <= ", " > ", " >= "]);
                node!(boolean, "(", left, operator, self.expression(of, scope, 0), ")")
            }
        }
    }

    /// A condition with a query in it, which may look at the row outside.
    fn subquery_condition(&mut self, scope: &Scope) -> Node {
        let boolean = Kind::Expression(Type::Boolean);
        let of = *self.random.pick(&[Type::BigInt, Type::BigInt, Type::Varchar, Type::Decimal, Type::Date]);
        let (source, inner) = self.table();
        let outer = self.column(of, scope);
        let is_small = scope.rows.saturating_mul(inner.rows) <= PAIRS_MAX;
        let condition = match self.random.below(100) {
            0..20 => {
                let not = *self.random.pick(&["", "NOT "]);
                let inside = self.where_clause_simple(&inner);
                node!(
                    boolean,
                    "(",
                    outer,
                    format!(" {not}IN (SELECT "),
                    self.column(of, &inner),
                    " FROM ",
                    source,
                    inside,
                    "))"
                )
            }
            20..45 => {
                let not = *self.random.pick(&["", "NOT "]);
                let operator = if is_small { *self.random.pick(&[" = ", " = ", " = ", " < ", " <> "]) } else { " = " };
                let key = self.column(of, &inner);
                let more = if self.random.chance(40) {
                    node!(Kind::Optional, " AND ", self.comparison(&inner, 1))
                } else {
                    Node::none()
                };
                let test = node!(boolean, key, operator, outer);
                node!(boolean, format!("({not}EXISTS (SELECT 1 FROM "), source, " WHERE ", test, more, "))")
            }
            45..55 => {
                let not = *self.random.pick(&["", "NOT "]);
                let inside = self.where_clause_simple(&inner);
                node!(boolean, format!("({not}EXISTS (SELECT 1 FROM "), source, inside, "))")
            }
            55..75 => {
                let left = self.expression(Type::BigInt, scope, 1);
                let operator = *self.random.pick(&[" = ", " < ", " >= "]);
                node!(boolean, "(", left, operator, self.scalar_subquery(scope), ")")
            }
            _ => return self.boolean(scope, EXPRESSION_DEPTH),
        };
        if self.random.chance(25) {
            let operator = *self.random.pick(&[" OR ", " AND "]);
            return node!(boolean, "(", condition, operator, self.boolean(scope, 1), ")");
        }
        condition
    }

    fn where_clause_simple(&mut self, scope: &Scope) -> Node {
        match self.random.below(100) {
            0..50 => Node::none(),
            50..65 => node!(Kind::Optional, " WHERE ", self.column(Type::BigInt, scope), " > ", 1_000_000),
            _ => node!(Kind::Optional, " WHERE ", self.comparison(scope, 1)),
        }
    }

    /// One BIGINT, of all rows of a table or of those that belong to the row outside.
    fn scalar_subquery(&mut self, scope: &Scope) -> Node {
        let (source, inner) = self.table();
        let aggregate = *self.random.pick(&["max", "min", "sum", "count"]);
        let value = self.column(Type::BigInt, &inner);
        let condition = if self.random.chance(50) && !scope.of(Type::BigInt).is_empty() {
            let (key, outer) = (self.column(Type::BigInt, &inner), self.column(Type::BigInt, scope));
            node!(Kind::Fixed, " WHERE ", key, " = ", outer)
        } else {
            self.where_clause_simple(&inner)
        };
        node!(
            Kind::Expression(Type::BigInt),
            format!("(SELECT CAST({aggregate}("),
            value,
            ") AS BIGINT) FROM ",
            source,
            condition,
            ")"
        )
    }

    // Expressions.

    fn column(&mut self, of: Type, scope: &Scope) -> Node {
        let fitting: Vec<String> = scope.of(of).into_iter().map(String::from).collect();
        if fitting.is_empty() {
            return self.constant(of);
        }
        node!(Kind::Expression(of), self.random.pick(&fitting).clone())
    }

    fn constant(&mut self, of: Type) -> Node {
        let kind = Kind::Expression(of);
        if self.random.chance(8) {
            return node!(kind, format!("CAST(NULL AS {})", of.name()));
        }
        match of {
            Type::BigInt => node!(kind, self.random.below(12).to_string()),
            Type::Double => node!(kind, format!("CAST({} AS DOUBLE)", self.random.below(40) as f64 / 4.0)),
            Type::Decimal => {
                node!(kind, format!("CAST({}.{:02} AS DECIMAL(12, 2))", self.random.below(99), self.random.below(100)))
            }
            Type::Varchar => node!(kind, format!("'{}'", self.random.pick(&["", "a", "b", "ab", "Zebra", "10"]))),
            Type::Date => node!(kind, format!("DATE '2022-0{}-15'", 1 + self.random.below(4))),
            Type::Timestamp => node!(kind, format!("TIMESTAMP '2022-0{}-10 07:00:00'", 1 + self.random.below(8))),
            Type::Boolean => node!(kind, *self.random.pick(&["TRUE", "FALSE"])),
            Type::List => node!(kind, "CAST(NULL AS BIGINT[])"),
        }
    }

    fn expression(&mut self, of: Type, scope: &Scope, depth: u32) -> Node {
        if depth == 0 || of == Type::List || self.random.chance(40) {
            return if self.random.chance(12) { self.constant(of) } else { self.column(of, scope) };
        }
        let kind = Kind::Expression(of);
        match self.random.below(100) {
            0..15 => {
                let condition = self.comparison(scope, depth - 1);
                let (then, otherwise) = (self.expression(of, scope, depth - 1), self.expression(of, scope, depth - 1));
                return node!(kind, "CASE WHEN ", condition, " THEN ", then, " ELSE ", otherwise, " END");
            }
            15..27 => {
                let (first, second) = (self.expression(of, scope, depth - 1), self.expression(of, scope, depth - 1));
                return node!(kind, "coalesce(", first, ", ", second, ")");
            }
            27..33 => {
                let (first, second) = (self.expression(of, scope, depth - 1), self.constant(of));
                return node!(kind, "nullif(", first, ", ", second, ")");
            }
            _ => {}
        }
        let inside = self.expression(of, scope, depth - 1);
        match of {
            Type::BigInt => match self.random.below(6) {
                0 => node!(kind, "(", inside, " + ", self.expression(of, scope, 0), ")"),
                1 => node!(kind, "(", inside, " - ", self.expression(of, scope, 0), ")"),
                2 => node!(kind, "(", inside, format!(" * {})", self.random.below(5))),
                3 => node!(kind, "(", inside, format!(" % {})", 1 + self.random.below(7))),
                4 => node!(kind, "abs(", inside, ")"),
                _ => node!(kind, "CAST(length(", self.expression(Type::Varchar, scope, 0), ") AS BIGINT)"),
            },
            Type::Double => match self.random.below(3) {
                0 => node!(kind, "(", inside, " + ", self.expression(of, scope, 0), ")"),
                1 => node!(kind, "(", inside, " * CAST(0.5 AS DOUBLE))"),
                _ => node!(kind, "CAST(", self.expression(Type::BigInt, scope, 0), " AS DOUBLE)"),
            },
            Type::Decimal => node!(kind, "(", inside, " + ", self.expression(of, scope, 0), ")"),
            Type::Varchar => match self.random.below(4) {
                0 => node!(kind, "(", inside, " || ", self.expression(of, scope, 0), ")"),
                1 => node!(kind, "upper(", inside, ")"),
                2 => node!(kind, "substr(", inside, format!(", 1, {})", self.random.below(4))),
                _ => node!(kind, "CAST(", self.expression(Type::BigInt, scope, 0), " AS VARCHAR)"),
            },
            Type::Timestamp => {
                let unit = *self.random.pick(&["day", "month", "hour"]);
                node!(kind, format!("date_trunc('{unit}', "), inside, ")")
            }
            Type::Boolean => self.boolean(scope, depth - 1),
            Type::Date | Type::List => inside,
        }
    }

    fn aggregate(&mut self, of: Type, scope: &Scope) -> Node {
        let kind = Kind::Expression(of);
        let argument = |generator: &mut Self, of| generator.expression(of, scope, 1);
        let call = match of {
            Type::BigInt => match self.random.below(7) {
                0 | 1 => node!(kind, "count(*)"),
                2 => {
                    let of = self.value_type();
                    node!(kind, "count(", argument(self, of), ")")
                }
                3 => {
                    let of = self.value_type();
                    node!(kind, "count(DISTINCT ", argument(self, of), ")")
                }
                4 => node!(kind, "min(", argument(self, of), ")"),
                5 => node!(kind, "sum(DISTINCT ", argument(self, of), ")"),
                _ => node!(kind, "sum(", argument(self, of), ")"),
            },
            Type::Double => match self.random.below(3) {
                0 => node!(kind, "avg(", argument(self, Type::BigInt), ")"),
                1 => node!(kind, "sum(", argument(self, of), ")"),
                _ => node!(kind, "max(", argument(self, of), ")"),
            },
            Type::Boolean => {
                node!(kind, *self.random.pick(&["bool_and(", "bool_or("]), argument(self, of), ")")
            }
            Type::List => return self.ordered_list(scope),
            Type::Varchar if self.random.chance(30) => return self.joined_texts(scope),
            Type::Decimal if self.random.chance(50) => node!(kind, "sum(", argument(self, of), ")"),
            _ => node!(kind, *self.random.pick(&["min(", "max("]), argument(self, of), ")"),
        };
        let filter = self.filter(scope);
        node!(kind, call, filter)
    }

    fn filter(&mut self, scope: &Scope) -> Node {
        if !self.random.chance(20) {
            return Node::none();
        }
        node!(Kind::Optional, " FILTER (WHERE ", self.comparison(scope, 1), ")")
    }

    fn ordered_list(&mut self, scope: &Scope) -> Node {
        let kind = Kind::Expression(Type::List);
        let Some(unique) = &scope.unique else { return node!(kind, "CAST(NULL AS BIGINT[])") };
        let order = unique.join(", ");
        node!(kind, "array_agg(", self.column(Type::BigInt, scope), format!(" ORDER BY {order})"))
    }

    fn joined_texts(&mut self, scope: &Scope) -> Node {
        let kind = Kind::Expression(Type::Varchar);
        let value = self.column(Type::Varchar, scope);
        match &scope.unique {
            Some(unique) => node!(kind, "string_agg(", value, format!(", '-' ORDER BY {})", unique.join(", "))),
            None => node!(kind, "min(", value, ")"),
        }
    }

    // Window functions.

    fn window(&mut self, of: Type, scope: &Scope) -> Node {
        if of == Type::List {
            return self.column(of, scope);
        }
        let kind = Kind::Expression(of);
        let partition = if self.random.chance(50) {
            let of = *self.random.pick(&[Type::BigInt, Type::BigInt, Type::Varchar, Type::Boolean]);
            node!(Kind::Optional, "PARTITION BY ", self.column(of, scope), " ")
        } else {
            Node::none()
        };
        let is_total = scope.unique.is_some() && self.random.chance(80);
        if is_total && self.random.chance(60) {
            let order = self.window_order(scope, true);
            let (call, frame) = self.positional_function(of, scope);
            return node!(kind, call, " OVER (", partition, order, frame, ")");
        }
        if of == Type::BigInt && self.random.chance(30) {
            let order = self.window_order(scope, false);
            return node!(kind, *self.random.pick(&["rank()", "dense_rank()"]), " OVER (", partition, order, ")");
        }
        if of == Type::Double && self.random.chance(30) {
            let order = self.window_order(scope, false);
            return node!(
                kind,
                *self.random.pick(&["percent_rank()", "cume_dist()"]),
                " OVER (",
                partition,
                order,
                ")"
            );
        }
        let call = self.window_aggregate(of, scope);
        if self.random.chance(30) {
            return node!(kind, call, " OVER (", partition, ")");
        }
        if self.random.chance(15) {
            let key = self.column(Type::BigInt, scope);
            let order = node!(Kind::Fixed, "ORDER BY ", key, *self.random.pick(&[" ASC", " DESC"]), " NULLS LAST");
            let frame = *self.random.pick(&[
                " RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING",
                " RANGE BETWEEN UNBOUNDED PRECEDING AND 3 FOLLOWING",
                " RANGE BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING",
            ]);
            return node!(kind, call, " OVER (", partition, order, node!(Kind::Optional, frame), ")");
        }
        let order = self.window_order(scope, is_total);
        let frame = if is_total { self.rows_frame() } else { node!(Kind::Optional, "") };
        node!(kind, call, " OVER (", partition, order, frame, ")")
    }

    /// ORDER BY, by columns that are different in each row where `is_total`.
    fn window_order(&mut self, scope: &Scope, is_total: bool) -> Node {
        let of = *self.random.pick(&[Type::BigInt, Type::BigInt, Type::Decimal, Type::Varchar, Type::Date]);
        let mut keys: Vec<Part> = vec![self.column(of, scope).into()];
        if is_total {
            keys.extend(scope.unique.iter().flatten().map(|column| Part::from(column.clone())));
        }
        let keys = keys.into_iter().map(|key| {
            let direction = *self.random.pick(&[" ASC", " DESC"]);
            let nulls = *self.random.pick(&[" NULLS FIRST", " NULLS LAST"]);
            Node { kind: Kind::Fixed, parts: vec![key, direction.into(), nulls.into()] }
        });
        let keys = Node::list(", ", keys.collect());
        node!(Kind::Fixed, "ORDER BY ", keys)
    }

    fn rows_frame(&mut self) -> Node {
        let frame = *self.random.pick(&[
            "",
            " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            " ROWS BETWEEN 3 PRECEDING AND 2 PRECEDING",
            " ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING",
            " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
        ]);
        node!(Kind::Optional, frame)
    }

    /// A function that looks at the places of rows, and its frame.
    fn positional_function(&mut self, of: Type, scope: &Scope) -> (Node, Node) {
        if of == Type::BigInt && self.random.chance(35) {
            let function = *self.random.pick(&["row_number()", "row_number()", "ntile(3)", "ntile(2)"]);
            let function = node!(Kind::Fixed, function);
            return (function, Node::none());
        }
        let value = self.column(of, scope);
        let nulls = node!(Kind::Optional, if self.random.chance(30) { " IGNORE NULLS" } else { "" });
        match self.random.below(6) {
            0 => (node!(Kind::Fixed, "lag(", value, ")", nulls), Node::none()),
            1 => (node!(Kind::Fixed, "lead(", value, ")", nulls), Node::none()),
            2 => {
                let function = *self.random.pick(&["lag(", "lead("]);
                let (steps, default) = (format!(", {}, ", self.random.below(3)), self.constant(of));
                (node!(Kind::Fixed, function, value, steps, default, ")", nulls), Node::none())
            }
            3 => (node!(Kind::Fixed, "first_value(", value, ")", nulls), self.rows_frame()),
            4 => (node!(Kind::Fixed, "last_value(", value, ")", nulls), self.rows_frame()),
            _ => {
                let place = format!(", {})", 1 + self.random.below(3));
                (node!(Kind::Fixed, "nth_value(", value, place, nulls), self.rows_frame())
            }
        }
    }

    fn window_aggregate(&mut self, of: Type, scope: &Scope) -> Node {
        let call = match of {
            Type::BigInt => match self.random.below(4) {
                0 => node!(Kind::Fixed, "count(*)"),
                1 => {
                    let of = self.value_type();
                    node!(Kind::Fixed, "count(", self.column(of, scope), ")")
                }
                2 => node!(Kind::Fixed, "min(", self.column(of, scope), ")"),
                _ => node!(Kind::Fixed, "sum(", self.column(of, scope), ")"),
            },
            Type::Double => node!(Kind::Fixed, "avg(", self.column(Type::BigInt, scope), ")"),
            Type::Boolean => node!(Kind::Fixed, "bool_or(", self.column(of, scope), ")"),
            Type::Decimal => node!(Kind::Fixed, "sum(", self.column(of, scope), ")"),
            _ => node!(Kind::Fixed, *self.random.pick(&["min(", "max("]), self.column(of, scope), ")"),
        };
        let filter = self.filter(scope);
        node!(Kind::Fixed, call, filter)
    }
}

/// The columns of a query, by their place.
fn names(types: &[Type]) -> Vec<(String, Type)> {
    types.iter().enumerate().map(|(i, of)| (format!("c{i}"), *of)).collect()
}

/// What an alias makes of columns.
fn renamed(alias: &str, columns: Vec<(String, Type)>, unique: Option<Vec<String>>, rows: u64) -> Scope {
    Scope {
        columns: columns.into_iter().map(|(name, of)| (format!("{alias}.{name}"), of)).collect(),
        unique: unique.map(|names| names.into_iter().map(|name| format!("{alias}.{name}")).collect()),
        rows,
    }
}
