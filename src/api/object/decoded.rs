//! Typed forms of objects, kept while somebody needs them: those in use, and those that were made
//! last. A typed pod takes more than three times its JSON, and most objects of a large cluster are
//! looked at once in a long time.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

/// How much JSON the forms that are kept were made of.
const KEPT_BYTES: usize = 2 << 20;

type Form = Arc<dyn Any + Send + Sync>;

/// The forms that were made last, in order, with the size of their JSON.
struct Recent {
    forms: VecDeque<(Form, usize)>,
    bytes: usize,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { forms: VecDeque::new(), bytes: 0 });

/// The typed form of one object, where there is one.
#[derive(Default)]
pub(super) struct Decoded(Mutex<Option<Weak<dyn Any + Send + Sync>>>);

impl Decoded {
    /// The form, if it is there and of this type.
    pub(super) fn get<K: Any + Send + Sync>(&self) -> Option<Arc<K>> {
        let form = self.0.lock().unwrap_or_else(|e| e.into_inner()).as_ref()?.upgrade()?;
        form.downcast().ok()
    }

    /// Remembers a form that was made of so much JSON.
    pub(super) fn set<K: Any + Send + Sync>(&self, form: &Arc<K>, bytes: usize) {
        let form: Form = form.clone();
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::downgrade(&form));
        let mut dropped = Vec::new();
        let mut recent = RECENT.lock().unwrap_or_else(|e| e.into_inner());
        recent.forms.push_back((form, bytes));
        recent.bytes += bytes;
        while recent.bytes > KEPT_BYTES
            && let Some((form, bytes)) = recent.forms.pop_front()
        {
            recent.bytes -= bytes;
            dropped.push(form);
        }
        // Forms are large: they are taken apart without the lock.
        drop(recent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_there_while_it_is_used_and_goes_when_others_come() {
        let (used, idle) = (Decoded::default(), Decoded::default());
        let form = Arc::new(1_u8);
        used.set(&form, 1);
        idle.set(&Arc::new(2_u8), 1);
        assert_eq!(idle.get::<u8>().as_deref(), Some(&2));
        assert_eq!(idle.get::<u16>(), None);
        (0..3).for_each(|n: u8| Decoded::default().set(&Arc::new(n), KEPT_BYTES / 2 + 1));
        assert_eq!((used.get::<u8>().as_deref(), idle.get::<u8>()), (Some(&1), None));
        drop(form);
        assert_eq!(used.get::<u8>(), None);
    }
}
