//! Starting centres where the passes of a fit are jobs: rows that matter are drawn where the blocks are, and one task
//! chooses among them. Runs share the passes.

use covey_engine::blocks::encode_points;
use covey_engine::external;
use covey_engine::operators::{BlockWork, OversamplePass, SeedSpec, decode_drawn, decode_weights};
use covey_udfs::kmeans::{Candidates, Centroids, Init, OVERSAMPLING_ROUNDS, Profile};
use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use futures::future::try_join_all;

use super::Fit;
use super::iterate::{one_result, results};

/// Where rows are that seeding chooses among, below the directory of the fit.
const DRAWN: &str = "drawn";

/// The k-means|| of a run under way.
struct Oversampling {
    run: usize,
    seed: SeedSpec,
    candidates: Candidates,
}

impl Oversampling {
    fn pass(&self, is_last: bool) -> OversamplePass {
        let (seed, starts) = (self.seed.clone(), self.candidates.starts().to_vec());
        OversamplePass { run: self.run, seed, starts, is_last }
    }
}

impl Fit<'_> {
    /// The starting centres of some runs.
    pub(super) async fn seeds(
        &self,
        mut seeds: Vec<(usize, SeedSpec)>,
        profile: &Profile,
        urls: &[String],
    ) -> Result<Vec<Centroids>> {
        let files = match self.options.init {
            _ if self.options.given.is_some() => vec![urls.to_vec(); seeds.len()],
            Init::KMeansParallel => self.oversample(&seeds, profile, urls).await?,
            Init::KMeansPlusPlus | Init::Random => self.draw(&seeds, urls).await?,
        };
        // Among candidates k-means++ chooses.
        let candidates = seeds.iter_mut().filter(|(_, seed)| seed.params.init == Init::KMeansParallel);
        candidates.for_each(|(_, seed)| seed.params.init = Init::KMeansPlusPlus);
        let choosing = seeds.into_iter().zip(&files).map(|((_, seed), files)| async move {
            self.run_blocks(BlockWork::Seed(seed), files, 1).await.and_then(|batches| one_result(&batches))
        });
        let chosen = try_join_all(choosing).await?;
        // The next runs draw others.
        self.directory.child(DRAWN)?.delete_all().await?;
        Ok(chosen.into_iter().map(|(centroids, _)| centroids).collect())
    }

    async fn draw(&self, seeds: &[(usize, SeedSpec)], urls: &[String]) -> Result<Vec<Vec<String>>> {
        let directory = self.directory.child(DRAWN)?.url().to_string();
        let work = BlockWork::Draw { seeds: seeds.iter().map(|(_, seed)| seed.clone()).collect(), directory };
        let mut files = vec![vec![]; seeds.len()];
        for part in results(&self.run_blocks(work, urls, self.n_partitions()).await?) {
            if !part.result.is_empty() {
                files[part.of].push(String::from_utf8(part.result.to_vec()).map_err(external)?);
            }
        }
        Ok(files)
    }

    /// The candidates of k-means|| as a file for each run.
    async fn oversample(
        &self,
        seeds: &[(usize, SeedSpec)],
        profile: &Profile,
        urls: &[String],
    ) -> Result<Vec<Vec<String>>> {
        let runs = seeds.iter().map(|(run, seed)| Oversampling {
            run: *run,
            seed: seed.clone(),
            candidates: Candidates::new(profile.density, profile.n_features()),
        });
        let mut runs: Vec<Oversampling> = runs.collect();
        self.draw_candidates(&mut runs, urls).await?;
        let mut weights: Vec<Vec<u64>> = runs.iter().map(|run| vec![0; run.candidates.len()]).collect();
        let passes = runs.iter().map(|run| run.pass(true)).collect();
        for part in results(&self.oversample_pass(passes, urls).await?) {
            let sums = &mut weights[part.of];
            let of_part = decode_weights(part.result, sums.len())?;
            sums.iter_mut().zip(of_part).for_each(|(sum, weight)| *sum += weight);
        }
        let directory = self.directory.child(DRAWN)?;
        let mut files = vec![];
        for (run, weights) in runs.into_iter().zip(weights) {
            self.published.forget_candidates(run.run, run.candidates.starts().len());
            let name = format!("candidates-{}.arrow", run.run);
            directory.put(&name, encode_points(&run.candidates.into_points(weights))?).await?;
            files.push(vec![directory.url_of(&name)?.to_string()]);
        }
        Ok(files)
    }

    async fn draw_candidates(&self, runs: &mut [Oversampling], urls: &[String]) -> Result<()> {
        let mut open: Vec<&mut Oversampling> = runs.iter_mut().collect();
        for round in 0..=OVERSAMPLING_ROUNDS {
            let passes: Vec<OversamplePass> = open.iter().map(|run| run.pass(false)).collect();
            if passes.is_empty() {
                break;
            }
            let mut drawn = vec![vec![]; open.len()];
            for part in results(&self.oversample_pass(passes, urls).await?) {
                drawn[part.of].extend(decode_drawn(part.result)?);
            }
            let mut drawn = drawn.into_iter();
            // A run for which every row is a candidate is ready.
            open.retain_mut(|run| {
                let rows = drawn.next().and_then(|drawn| run.candidates.take(drawn, &run.seed.params));
                rows.iter().for_each(|rows| self.published.candidates(run.run, round, rows));
                rows.is_some()
            });
        }
        Ok(())
    }

    async fn oversample_pass(&self, passes: Vec<OversamplePass>, urls: &[String]) -> Result<Vec<RecordBatch>> {
        self.run_blocks(BlockWork::Oversample(passes), urls, self.n_partitions()).await
    }
}
