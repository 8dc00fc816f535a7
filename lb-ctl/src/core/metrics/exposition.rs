//! Samples put together into what Prometheus reads.

use std::collections::BTreeMap;

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, MetricFamily, MetricType},
};

use super::definition::{Kind, Metric};

/// The content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Samples by metric.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<Metric, Vec<prometheus::proto::Metric>>,
}

impl Exposition {
    /// Adds a sample. There must be a value for each label of the metric.
    pub(super) fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels().len(), "{metric:?}");
        let labels = metric.labels().iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut sample = prometheus::proto::Metric::from_label(labels.collect());
        if metric.kind() == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.families.entry(metric).or_default().push(sample);
    }

    /// Adds a whole number.
    pub(super) fn add_count(&mut self, metric: Metric, labels: &[&str], count: u64) {
        // Prometheus knows no other numbers: beyond 2^53 the last digits are lost.
        #[expect(
            clippy::cast_precision_loss,
            reason = "the format has floating point numbers only"
        )]
        self.add(metric, labels, count as f64);
    }

    /// Adds 1 or 0.
    pub(super) fn add_truth(&mut self, metric: Metric, labels: &[&str], truth: bool) {
        self.add(metric, labels, f64::from(u8::from(truth)));
    }

    /// Adds 1 for one of these words, 0 for the others. The words are the values of the last label.
    pub(super) fn add_choice(&mut self, metric: Metric, labels: &[&str], words: &[&str], choice: &str) {
        for word in words {
            self.add_truth(metric, &[labels, &[word]].concat(), *word == choice);
        }
    }

    /// The text, with families that have been counted elsewhere.
    pub(super) fn text(self, others: Vec<MetricFamily>) -> prometheus::Result<String> {
        let ours = self.families.into_iter().map(|(metric, samples)| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name().to_owned());
            family.set_help(metric.meaning().to_owned());
            family.set_field_type(match metric.kind() {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family.set_metric(samples);
            family
        });
        let mut families: Vec<MetricFamily> = ours.chain(others).collect();
        families.sort_by(|one, other| one.name().cmp(other.name()));
        TextEncoder::new().encode_to_string(&families)
    }
}
