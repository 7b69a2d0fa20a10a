//! The one place where the library's coroutine is polled, by hand and never by an executor.
//!
//! ```text
//! begin(input) -> Poll::Effect -> caller answers -> resume(answer) -> ... -> Poll::Done
//! ```
//!
//! The library is an `async fn` over its own state that yields an effect and waits for the answer.
//! Between two calls it simply sits in this struct, for as long as a signature takes. Its state
//! moves into the future while it runs and comes back through a cell that is written once; there is
//! no waker, no thread and nothing to wait on. Dropping it half way is a crash: recovery begins
//! anew.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use arc_malachitebft_core_consensus as library;
use library::r#gen::{CoResult, Gen};

use crate::context::Context;

pub(super) type LibraryState = library::State<Context>;
pub(super) type LibraryInput = library::Input<Context>;
pub(super) type LibraryEffect = library::Effect<Context>;
pub(super) type LibraryResume = library::Resume<Context>;
pub(super) type LibraryError = library::Error<Context>;

type Run = Pin<Box<dyn Future<Output = Result<(), LibraryError>> + Send>>;

/// What the coroutine came to.
pub(super) enum Poll {
    /// It asks for something and waits for the answer.
    Effect(LibraryEffect),
    /// It has taken in its input.
    Done(Result<(), LibraryError>),
}

enum Stage {
    Idle(Box<LibraryState>),
    Suspended {
        run: Gen<LibraryEffect, LibraryResume, Run>,
        returned: Arc<OnceLock<Box<LibraryState>>>,
    },
    /// Only inside a call; seen outside, it would be a lost state.
    Moving,
}

/// The library with its state, idle or in the middle of an input.
pub(super) struct Coroutine {
    stage: Stage,
}

impl Coroutine {
    pub(super) fn new(state: LibraryState) -> Self {
        Self { stage: Stage::Idle(Box::new(state)) }
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle(_))
    }

    /// The library's state, while it is idle.
    pub(super) fn state(&mut self) -> Option<&mut LibraryState> {
        match &mut self.stage {
            Stage::Idle(state) => Some(state),
            Stage::Suspended { .. } | Stage::Moving => None,
        }
    }

    /// Starts on an input and goes to the first effect.
    ///
    /// # Panics
    /// If an input is being taken in already: the caller keeps a queue for that.
    pub(super) fn begin(&mut self, input: LibraryInput) -> Poll {
        assert!(self.is_idle(), "one input at a time");
        let Stage::Idle(mut state) = std::mem::replace(&mut self.stage, Stage::Moving) else {
            return Poll::Done(Ok(()));
        };
        let returned = Arc::new(OnceLock::new());
        let slot = Arc::clone(&returned);
        let run = Gen::new(|co| -> Run {
            Box::pin(async move {
                let result = library::handle(co, &mut state, &(), input).await;
                let first = slot.set(state).is_ok();
                assert!(first, "the state comes back once");
                result
            })
        });
        self.stage = Stage::Suspended { run, returned };
        self.resume(LibraryResume::Start)
    }

    /// Hands in the answer to the last effect and goes on to the next.
    ///
    /// # Panics
    /// If no effect waits for an answer.
    pub(super) fn resume(&mut self, answer: LibraryResume) -> Poll {
        let Stage::Suspended { run, .. } = &mut self.stage else {
            assert!(self.is_idle(), "a state that moves is not resumed");
            assert!(!self.is_idle(), "an answer needs a question");
            return Poll::Done(Ok(()));
        };
        match run.resume_with(answer) {
            CoResult::Yielded(effect) => Poll::Effect(effect),
            CoResult::Complete(result) => {
                self.take_back();
                Poll::Done(result)
            }
        }
    }

    fn take_back(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Moving);
        if let Stage::Suspended { run, returned } = stage {
            drop(run);
            if let Some(state) = Arc::into_inner(returned).and_then(OnceLock::into_inner) {
                self.stage = Stage::Idle(state);
            }
        }
        assert!(self.is_idle(), "a finished run gives its state back");
    }
}
