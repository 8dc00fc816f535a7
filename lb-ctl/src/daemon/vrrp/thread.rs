//! The thread of VRRP: its start, and what the controller has of it.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::{Dependencies, Order, board::Board, driver::Driver, hooks, programs::Programs, pulse::Pulse};

#[derive(Debug)]
pub(super) struct Thread {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) handle: JoinHandle<()>,
    /// How it has ended. It says nothing if it has panicked.
    pub(super) ended: oneshot::Receiver<anyhow::Result<()>>,
    pub(super) pulse: Pulse,
    pub(super) hands_pulse: Pulse,
    pub(super) programs: Programs,
}

impl Thread {
    pub(super) fn start(
        board: Board,
        dependencies: Dependencies,
        told: hooks::Tally,
    ) -> anyhow::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let programs = Programs::start(orders.downgrade(), told)?;
        let notifier = programs.notifier();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of VRRP")?;
        let (pulse, hands_pulse) = (Pulse::new(), Pulse::new());
        let pulses = [pulse.clone(), hands_pulse.clone()];
        let (end, ended) = oneshot::channel();
        let handle = std::thread::Builder::new()
            .name("vrrp".into())
            .spawn(move || {
                let result = runtime.block_on(Driver::run(received, board, dependencies, notifier, pulses));
                // Nobody wants to know if the daemon has ended.
                let _ = end.send(result);
            })
            .context("starting the thread of VRRP")?;
        Ok(Self {
            orders,
            handle,
            ended,
            pulse,
            hands_pulse,
            programs,
        })
    }

    pub(super) fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).ok().context("the VRRP thread has ended")
    }
}
