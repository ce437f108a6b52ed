//! The clusters of real processes that queries run on, started when they are first asked for.

use std::collections::HashSet;

use super::session::Session;
use super::shapes::{ClusterKind, Shape, Sizes};
use super::world::World;
use crate::Sandbox;

/// Memory of an executor that has little of it: enough for the buffers of one task, and for no table.
const LITTLE_MEMORY_BYTES: u64 = 3 << 20;

/// A cluster and what is in it.
pub struct Cluster {
    pub sandbox: Sandbox,
    worlds: HashSet<(u64, Sizes)>,
}

impl Cluster {
    pub async fn start(kind: ClusterKind) -> Self {
        let mut sandbox = Sandbox::start(0, 1).await;
        let (executors, vcores) = match kind {
            ClusterKind::OneExecutor => (1, 2),
            _ => (3, 1),
        };
        let memory = LITTLE_MEMORY_BYTES.to_string();
        let arguments: &[&str] =
            if kind == ClusterKind::LittleMemory { &["--memory-bytes", memory.as_str()] } else { &[] };
        for i in 0..executors {
            sandbox.add_executor_with(vcores, arguments);
            sandbox.wait_for_log(&format!("executor-{i}.log"), "executor registered", 1).await;
        }
        Self { sandbox, worlds: HashSet::new() }
    }

    /// A session in which the tables of `world` are there by their names.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn session(&mut self, world: &World, shape: &Shape) -> Result<Session, String> {
        if self.worlds.insert((world.number, shape.sizes)) {
            let mut session = Session::open(&self.sandbox.url, &[]).await?;
            world.create(&mut session, shape.sizes).await?;
        }
        Session::open(&self.sandbox.url, &shape.settings(&world.schema(shape.sizes))).await
    }

    /// Forgets a world.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn leave(&mut self, world: &World) -> Result<(), String> {
        for sizes in [Sizes::Known, Sizes::Unknown, Sizes::Wrong] {
            if self.worlds.remove(&(world.number, sizes)) {
                let mut session = Session::open(&self.sandbox.url, &[]).await?;
                world.drop(&mut session, sizes).await?;
            }
        }
        Ok(())
    }

    /// Kills an executor and starts another in its place.
    pub async fn replace_executor(&mut self, i: usize) {
        self.sandbox.executors[i].kill();
        let next = self.sandbox.executors.len();
        self.sandbox.add_executor_with(1, &[]);
        let fresh = self.sandbox.executors.pop().expect("it was added");
        self.sandbox.executors.push(fresh);
        self.sandbox.wait_for_log(&format!("executor-{next}.log"), "executor registered", 1).await;
        self.sandbox.executors.swap(i, next);
    }
}
