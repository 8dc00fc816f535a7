//! Metrics for many readers, gathered once.

use std::time::Duration;

use axum::body::Bytes;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use super::super::api::server::Request;

/// For how long an answer is good. Prometheus asks every 15 seconds or so, twice if there are two of them.
const FRESH: Duration = Duration::from_secs(1);

/// How long gathering may take. Prometheus gives up after ten seconds.
const GATHERING: Duration = Duration::from_secs(8);

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<Option<(Instant, Bytes)>>);

impl Scrapes {
    /// The metrics, at most a second old; or why there are none. Whoever asks at the same time waits for the same answer.
    pub(super) async fn scrape(&self, controller: &mpsc::Sender<Request>) -> Result<Bytes, String> {
        let mut last = self.0.lock().await;
        if let Some((_, text)) = last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let asked = Instant::now();
        let text = match timeout(GATHERING, gather(controller)).await {
            Ok(text) => Bytes::from(text?),
            Err(_) => {
                return Err(format!(
                    "the controller has not answered within {} s\n",
                    GATHERING.as_secs()
                ));
            }
        };
        *last = Some((asked, text.clone()));
        Ok(text)
    }
}

async fn gather(controller: &mpsc::Sender<Request>) -> Result<String, String> {
    let gone = || "the daemon is shutting down\n".to_owned();
    let (answer, answered) = oneshot::channel();
    controller
        .send(Request::Metrics(answer))
        .await
        .map_err(|_| gone())?;
    let answer = answered.await.map_err(|_| gone())?;
    answer.map_err(|refusal| format!("{refusal}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn many_readers_ask_the_controller_once_a_second() {
        let (controller, mut requests) = mpsc::channel(1);
        let answering = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(Request::Metrics(answer)) = requests.recv().await {
                asked += 1;
                answer.send(Ok(format!("lb_x {asked}\n"))).unwrap();
            }
            asked
        });
        let scrapes = Arc::new(Scrapes::default());
        let readers: Vec<_> = (0..50)
            .map(|_| {
                let (scrapes, controller) = (Arc::clone(&scrapes), controller.clone());
                tokio::spawn(async move { scrapes.scrape(&controller).await })
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.await.unwrap().unwrap(), "lb_x 1\n");
        }
        tokio::time::advance(FRESH).await;
        assert_eq!(scrapes.scrape(&controller).await.unwrap(), "lb_x 2\n");
        drop(controller);
        assert_eq!(answering.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_does_not_answer_is_no_reason_to_wait_for_ever() {
        let (controller, _requests) = mpsc::channel(1);
        let reason = Scrapes::default().scrape(&controller).await.unwrap_err();
        assert_eq!(reason, "the controller has not answered within 8 s\n");
    }
}
