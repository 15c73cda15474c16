//! Which answer a request gets.

use crate::answer::Answer;
use crate::server::Request;
use std::collections::VecDeque;
use std::fmt;

/// A list of answers, used in order, or a function of the request.
pub struct Script(Kind);

enum Kind {
    InOrder(VecDeque<Answer>),
    Repeating(Answer),
    By(Box<dyn FnMut(&Request) -> Answer + Send>),
}

impl Script {
    /// These answers, one a request. Requests beyond them get a 400 that says so.
    pub fn in_order(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self(Kind::InOrder(answers.into_iter().collect()))
    }

    /// This answer for every request.
    #[must_use]
    pub fn repeating(answer: Answer) -> Self {
        Self(Kind::Repeating(answer))
    }

    /// What `choose` says. It is not asked about requests that strict mode refuses.
    pub fn by(choose: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        Self(Kind::By(Box::new(choose)))
    }

    /// Adds answers to the end; a script of another kind is replaced by them.
    pub(crate) fn push(&mut self, answers: impl IntoIterator<Item = Answer>) {
        match &mut self.0 {
            Kind::InOrder(list) => list.extend(answers),
            Kind::Repeating(_) | Kind::By(_) => *self = Self::in_order(answers),
        }
    }

    /// Whether the next connection is to be reset before it says anything; uses that answer up.
    pub(crate) fn refuses_connection(&mut self) -> bool {
        match &mut self.0 {
            Kind::InOrder(list) if list.front() == Some(&Answer::Refuse) => list.pop_front().is_some(),
            Kind::Repeating(answer) => *answer == Answer::Refuse,
            _ => false,
        }
    }

    pub(crate) fn next(&mut self, request: &Request) -> Answer {
        match &mut self.0 {
            Kind::InOrder(list) => {
                list.pop_front().unwrap_or_else(|| Answer::error(400, "fault server: the script has no more answers"))
            }
            Kind::Repeating(answer) => answer.clone(),
            Kind::By(choose) => choose(request),
        }
    }
}

impl<const N: usize> From<[Answer; N]> for Script {
    fn from(answers: [Answer; N]) -> Self {
        Self::in_order(answers)
    }
}

impl From<Vec<Answer>> for Script {
    fn from(answers: Vec<Answer>) -> Self {
        Self::in_order(answers)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::InOrder(answers) => f.debug_list().entries(answers).finish(),
            Kind::Repeating(answer) => f.debug_tuple("Repeating").field(answer).finish(),
            Kind::By(_) => f.write_str("By(..)"),
        }
    }
}
