//! Plans on the wire: Ballista's codec, and ours for our operators and functions. Each message begins with a
//! tag that says whose it is; trying one codec after the other could misread protobuf.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::proto_decode::PhysicalExprDecodeCtx;
use datafusion::physical_expr_common::physical_expr::proto_encode::PhysicalExprEncodeCtx;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::{self, PhysicalPlanNode};
use prost::Message;

use crate::fingerprint::{Fingerprint, is_writer};
use crate::models::cache::ModelCache;
use crate::models::functions::ModelFunc;
use crate::operators::{self, ChangedStageExec, ResultSchemaExec, SingleTaskExec};
use crate::session::{aggregate_functions, window_functions};
use crate::upstream::{FilteredAggregate, PlannedExec, PlannedWindowFunction, rebuilt};

const COVEY: u8 = 0xC0;
const BALLISTA: u8 = 0xBA;
/// An operator whose type is hidden from Ballista.
const PLANNED: u8 = 0xC1;
/// The root of a stage, with the fingerprint of what is below it.
const STAGE: u8 = 0xC3;
/// A whole plan.
const SINGLE_TASK: u8 = 0xC2;

/// The schema of what a query gives.
const RESULT_SCHEMA: u8 = 0xC4;

/// Bytes of the length of a fingerprint.
const LENGTH_BYTES: usize = size_of::<u32>();

/// What travels of a window function that ignores NULLs, and of an aggregate with a condition.
const FLAGGED: &[u8] = &[1];

/// The physical codec of every Covey process.
#[derive(Debug)]
pub struct CoveyPhysicalCodec {
    ballista: BallistaPhysicalExtensionCodec,
    models: Arc<ModelCache>,
}

impl CoveyPhysicalCodec {
    pub fn new(models: Arc<ModelCache>) -> Self {
        Self { ballista: BallistaPhysicalExtensionCodec::default(), models }
    }

    /// A stage whose operators are those that were planned, or one that says which is another.
    fn decode_stage(
        &self,
        blob: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = blob
            .split_at_checked(LENGTH_BYTES)
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(length.try_into().ok()?) as usize));
        let Some((fingerprint, blob)) = parts else {
            return internal_err!("a stage of {} bytes is cut off", blob.len());
        };
        let stage = self.ballista.try_decode(blob, inputs, ctx, proto_converter)?;
        Ok(match Fingerprint::of(inputs).difference(&Fingerprint::decode(fingerprint)?) {
            Some(difference) => Arc::new(ChangedStageExec::new(difference, stage)),
            None => stage,
        })
    }

    fn encode_plan(&self, tag: u8, plan: Arc<dyn ExecutionPlan>, buf: &mut Vec<u8>) -> Result<()> {
        buf.push(tag);
        buf.extend(PhysicalPlanNode::try_from_physical_plan(plan, self)?.encode_to_vec());
        Ok(())
    }

    fn decode_plan(&self, blob: &[u8], ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let node = <PhysicalPlanNode as Message>::decode(blob)
            .map_err(|e| internal_datafusion_err!("an operator cannot be read: {e}"))?;
        node.try_into_physical_plan(ctx, self)
    }
}

impl PhysicalExtensionCodec for CoveyPhysicalCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match buf.split_first() {
            Some((&COVEY, blob)) => operators::decode(blob, inputs),
            Some((&PLANNED, blob)) => rebuilt(&self.decode_plan(blob, ctx)?, inputs.to_vec()),
            Some((&SINGLE_TASK, blob)) => Ok(Arc::new(SingleTaskExec::try_new(self.decode_plan(blob, ctx)?)?)),
            Some((&RESULT_SCHEMA, blob)) => decode_result_schema(blob, inputs),
            Some((&STAGE, blob)) => self.decode_stage(blob, inputs, ctx, proto_converter),
            Some((&BALLISTA, blob)) => self.ballista.try_decode(blob, inputs, ctx, proto_converter),
            _ => internal_err!("a plan node of {} bytes has no known tag", buf.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(planned) = node.downcast_ref::<PlannedExec>() {
            return self.encode_plan(PLANNED, planned.without_inputs()?, buf);
        }
        if node.is::<ResultSchemaExec>() {
            buf.push(RESULT_SCHEMA);
            buf.extend(protobuf::Schema::try_from(node.schema().as_ref())?.encode_to_vec());
            return Ok(());
        }
        if let Some(whole) = node.downcast_ref::<SingleTaskExec>() {
            return self.encode_plan(SINGLE_TASK, Arc::clone(whole.plan()), buf);
        }
        if let Some(blob) = operators::encode(node.as_ref())? {
            buf.push(COVEY);
            buf.extend(blob);
            return Ok(());
        }
        if is_writer(node.as_ref()) {
            let below: Vec<_> = node.children().into_iter().cloned().collect();
            let fingerprint = Fingerprint::of(&below).encode()?;
            buf.push(STAGE);
            buf.extend((fingerprint.len() as u32).to_le_bytes());
            buf.extend(fingerprint);
        } else {
            buf.push(BALLISTA);
        }
        self.ballista.try_encode(node, buf, proto_converter)
    }

    // A function without a payload is looked up by name in the registry; only ours with a model carry one.

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        if buf.is_empty() {
            return self.ballista.try_decode_udf(name, buf);
        }
        Ok(Arc::new(ScalarUDF::from(ModelFunc::decode(buf, &self.models)?)))
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        match node.inner().downcast_ref::<ModelFunc>() {
            Some(function) => function.encode(buf),
            None => self.ballista.try_encode_udf(node, buf),
        }
    }

    fn try_decode_expr(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn PhysicalExpr>],
        ctx: &PhysicalExprDecodeCtx<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.ballista.try_decode_expr(buf, inputs, ctx)
    }

    fn try_encode_expr(
        &self,
        node: &Arc<dyn PhysicalExpr>,
        buf: &mut Vec<u8>,
        ctx: &PhysicalExprEncodeCtx<'_>,
    ) -> Result<()> {
        self.ballista.try_encode_expr(node, buf, ctx)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        if buf == FLAGGED {
            let function =
                aggregate_functions().into_iter().find(|function| is_named(function.name(), function.aliases(), name));
            let Some(function) = function else { return internal_err!("there is no aggregate {name}") };
            return Ok(Arc::new(AggregateUDF::from(FilteredAggregate::new(function))));
        }
        self.ballista.try_decode_udaf(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        if node.inner().is::<FilteredAggregate>() {
            buf.extend(FLAGGED);
            return Ok(());
        }
        self.ballista.try_encode_udaf(node, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        if buf == FLAGGED {
            let function =
                window_functions().into_iter().find(|function| is_named(function.name(), function.aliases(), name));
            let Some(function) = function else { return internal_err!("there is no window function {name}") };
            return Ok(PlannedWindowFunction::ignoring_nulls(&function));
        }
        self.ballista.try_decode_udwf(name, buf)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        if let Some(function) = node.inner().downcast_ref::<PlannedWindowFunction>() {
            if function.ignores_nulls() {
                buf.extend(FLAGGED);
            }
            return Ok(());
        }
        self.ballista.try_encode_udwf(node, buf)
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        self.ballista.try_decode_higher_order_function(name, buf)
    }

    fn try_encode_higher_order_function(&self, node: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.ballista.try_encode_higher_order_function(node, buf)
    }
}

fn decode_result_schema(blob: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = <protobuf::Schema as Message>::decode(blob)
        .map_err(|e| internal_datafusion_err!("a schema cannot be read: {e}"))?;
    let [input] = inputs else { return internal_err!("a result has {} inputs instead of one", inputs.len()) };
    Ok(Arc::new(ResultSchemaExec::new(Arc::new(Schema::try_from(&schema)?), Arc::clone(input))))
}

fn is_named(function: &str, aliases: &[String], name: &str) -> bool {
    function == name || aliases.iter().any(|alias| alias == name)
}

#[cfg(test)]
mod tests {
    use ballista_core::execution_plans::ShuffleWriterExec;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::databases::Databases;
    use crate::session::{runtime_env, session_config, session_state};
    use crate::settings::Settings;
    use crate::storage::ObjectStores;

    fn codec() -> Arc<CoveyPhysicalCodec> {
        let stores = Arc::new(ObjectStores::new(Settings::default()));
        Arc::new(CoveyPhysicalCodec::new(Arc::new(ModelCache::new(stores))))
    }

    fn covey() -> SessionContext {
        let stores = Arc::new(ObjectStores::new(Settings::default()));
        let config = session_config(codec(), Arc::new(Databases::default()));
        SessionContext::new_with_state(session_state(config, runtime_env(stores).unwrap()))
    }

    /// The stage of a query that `planner` has planned, as one of our executors decodes it.
    async fn sent(planner: &SessionContext, sql: &str) -> Arc<dyn ExecutionPlan> {
        let plan = planner.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let stage = ShuffleWriterExec::try_new("job".to_string().into(), 1, plan, String::new()).unwrap();
        let codec = codec();
        let node = PhysicalPlanNode::try_from_physical_plan(Arc::new(stage), codec.as_ref()).unwrap();
        node.try_into_physical_plan(&covey().task_ctx(), codec.as_ref()).unwrap()
    }

    const IGNORES_NULLS: &str = "SELECT lag(a) IGNORE NULLS OVER (ORDER BY a) FROM (VALUES (1), (2)) AS t(a)";
    const FILTERS: &str = "SELECT sum(a) FILTER (WHERE a > 1) OVER (ORDER BY a) FROM (VALUES (1), (2)) AS t(a)";

    /// Goal: a stage that has lost something on its way is refused. Method: plans of DataFusion as it is, whose wire form
    /// loses the flags of windows; once it does not any more, `upstream/window_functions.rs` can go.
    #[tokio::test]
    async fn windows_lose_their_flags() {
        for sql in [IGNORES_NULLS, FILTERS] {
            let stage = sent(&SessionContext::new(), sql).await;
            let changed = stage.downcast_ref::<ChangedStageExec>().expect("the wire form of windows is mended");
            assert!(changed.difference().contains("WindowAggExec arrived otherwise"), "{}", changed.difference());
        }
    }

    /// Goal: what our sessions plan arrives as it was planned.
    #[tokio::test]
    async fn stages_arrive_as_they_were_planned() {
        let covey = covey();
        for sql in [
            IGNORES_NULLS,
            FILTERS,
            "SELECT count(*) FROM (VALUES (1), (2)) AS t(a) GROUP BY GROUPING SETS (())",
            "SELECT lag(a) OVER (ORDER BY a), lag(a) OVER (ORDER BY a DESC) FROM (VALUES (1), (2)) AS t(a)",
            "SELECT 'x' AS c UNION ALL SELECT CAST(a AS VARCHAR) FROM (VALUES (1), (2)) AS t(a)",
            "SELECT t.a, count(DISTINCT u.b) FILTER (WHERE u.b > 1) FROM (VALUES (1), (2)) AS t(a) LEFT JOIN (VALUES (1, 2)) \
             AS u(a, b) ON t.a = u.a AND u.b < 3 GROUP BY t.a",
        ] {
            let stage = sent(&covey, sql).await;
            let changed = stage.downcast_ref::<ChangedStageExec>().map(ChangedStageExec::difference);
            assert_eq!(changed, None, "{sql}");
        }
    }
}
