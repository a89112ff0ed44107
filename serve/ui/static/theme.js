// Light or dark, before anything is drawn: a plain script, because modules run too late for that.
(() => {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const key = 'chulengo.theme';
  let choice = 'auto';
  try { choice = localStorage.getItem(key) || 'auto'; } catch { /* private mode */ }

  const apply = () => {
    document.documentElement.dataset.theme = choice === 'auto' ? (dark.matches ? 'dark' : 'light') : choice;
    for (const b of document.querySelectorAll('[data-theme-choice]')) b.setAttribute('aria-pressed', String(b.dataset.themeChoice === choice));
  };
  apply();
  dark.addEventListener('change', apply);
  document.addEventListener('DOMContentLoaded', () => {
    for (const b of document.querySelectorAll('[data-theme-choice]')) {
      b.addEventListener('click', () => {
        choice = b.dataset.themeChoice;
        try { localStorage.setItem(key, choice); } catch { /* private mode: for this page only */ }
        apply();
      });
    }
    apply();
  });
})();
