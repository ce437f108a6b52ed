//! Binds `predict` and its kin to the version of the model that a query means, before the query is optimized.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use covey_engine::models::cache::{ModelCache, ModelHandle, ModelRef};
use covey_engine::models::functions::ModelFunc;
use covey_engine::models::{Manifest, ModelRegistry};
use covey_engine::user_err;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};

/// The plan with every model function bound. Each name is looked up once, so a query sees one version.
pub async fn bind_models(plan: LogicalPlan, registry: &ModelRegistry, cache: &ModelCache) -> Result<LogicalPlan> {
    let names = model_names(&plan)?;
    if names.is_empty() {
        return Ok(plan);
    }
    let mut handles = HashMap::new();
    for name in names {
        handles.insert(name.clone(), load(&name, registry, cache).await?);
    }
    let bound = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| expr.transform_up(|expr| bind(expr, &handles)))?
            .map_data(|node| node.recompute_schema())
    })?;
    Ok(bound.data)
}

async fn load(name: &str, registry: &ModelRegistry, cache: &ModelCache) -> Result<Arc<ModelHandle>> {
    let manifest = registry.get(name).await?;
    let handle = cache.handle(&reference(manifest, registry, 0).await?);
    cache.load(&handle).await;
    handle.get()?;
    Ok(handle)
}

/// Levels of models below each other that a function looks into: a cycle of names ends there.
const LEVELS_MAX: usize = 8;

/// A version of a model with those of its children, which may have been dropped.
async fn reference(manifest: Manifest, registry: &ModelRegistry, level: usize) -> Result<ModelRef> {
    let mut children = vec![];
    if level + 1 < LEVELS_MAX {
        for (cluster, child) in registry.children(&manifest).await? {
            children.push((cluster, Box::pin(reference(child, registry, level + 1)).await?));
        }
    }
    let manifest_url = registry.manifest_url(&manifest)?.to_string();
    Ok(ModelRef { name: manifest.name, manifest_url, digest: manifest.digest, children })
}

fn model_names(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some((_, function)) = unbound(expr) {
                    names.insert(model_name(function)?.to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(names)
}

fn unbound(expr: &Expr) -> Option<(&ModelFunc, &ScalarFunction)> {
    let Expr::ScalarFunction(function) = expr else {
        return None;
    };
    let model_function = function.func.inner().downcast_ref::<ModelFunc>()?;
    model_function.is_unbound().then_some((model_function, function))
}

fn model_name(function: &ScalarFunction) -> Result<&str> {
    let literal = match function.args.first() {
        Some(Expr::Literal(value, _)) => value.try_as_str().flatten(),
        _ => None,
    };
    match literal {
        Some(name) => Ok(name),
        None => user_err!(
            "{0}: the first argument must be the name of a model as a literal string: {0}('model', ...)",
            function.name()
        ),
    }
}

fn bind(expr: Expr, handles: &HashMap<String, Arc<ModelHandle>>) -> Result<Transformed<Expr>> {
    let Some((model_function, function)) = unbound(&expr) else {
        return Ok(Transformed::no(expr));
    };
    let bound = ScalarUDF::from(model_function.bind(Arc::clone(&handles[model_name(function)?])));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(bound), function.args.clone()))))
}
