//! Typed forms of objects, kept while somebody needs them: those in use, and those that were made
//! last. A typed pod takes more than three times its JSON, and most objects of a large cluster are
//! looked at once in a long time.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// How much JSON the forms that are kept were made of: what a burst of changes is about.
const KEPT_BYTES: usize = 512 << 10;

type Form = Arc<dyn Any + Send + Sync>;

/// Where an object finds its form.
#[derive(Default)]
struct Slot(Mutex<Option<Weak<dyn Any + Send + Sync>>>);

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Weak<dyn Any + Send + Sync>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A form that is kept though nobody may need it.
struct Kept {
    form: Form,
    slot: Arc<Slot>,
    /// The size of its JSON.
    bytes: usize,
}

impl Kept {
    /// Keeps it no longer. A weak reference holds on to the memory of a form, if not to what that
    /// points to: unless somebody uses the form, the object must not have one either.
    fn end(self) {
        let mut slot = self.slot.lock();
        // Another may have been made of the object at the same time.
        let own = slot.as_ref().is_some_and(|form| std::ptr::addr_eq(form.as_ptr(), Arc::as_ptr(&self.form)));
        if own && Arc::strong_count(&self.form) == 1 {
            slot.take();
        }
    }
}

/// The forms that were made last, in order.
struct Recent {
    forms: VecDeque<Kept>,
    bytes: usize,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { forms: VecDeque::new(), bytes: 0 });

/// The typed form of one object, where there is one.
#[derive(Default)]
pub(super) struct Decoded(OnceLock<Arc<Slot>>);

impl Decoded {
    /// The form, if it is there and of this type.
    pub(super) fn get<K: Any + Send + Sync>(&self) -> Option<Arc<K>> {
        let form = self.0.get()?.lock().as_ref()?.upgrade()?;
        form.downcast().ok()
    }

    /// Remembers a form that was made of so much JSON.
    pub(super) fn set<K: Any + Send + Sync>(&self, form: &Arc<K>, bytes: usize) {
        let (form, slot): (Form, _) = (form.clone(), self.0.get_or_init(Arc::default).clone());
        *slot.lock() = Some(Arc::downgrade(&form));
        let mut ended = Vec::new();
        let mut recent = RECENT.lock().unwrap_or_else(|e| e.into_inner());
        recent.forms.push_back(Kept { form, slot, bytes });
        recent.bytes += bytes;
        while recent.bytes > KEPT_BYTES
            && let Some(kept) = recent.forms.pop_front()
        {
            recent.bytes -= kept.bytes;
            ended.push(kept);
        }
        // Forms are large: they are taken apart without the lock.
        drop(recent);
        ended.into_iter().for_each(Kept::end);
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
        // Not even the memory of the form is held on to.
        assert!(idle.0.get().unwrap().lock().is_none());
        drop(form);
        assert_eq!(used.get::<u8>(), None);
    }
}
