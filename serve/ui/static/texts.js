// Every text of the page. {name} is filled in. The tutorial's own texts are shown where its model, Scout, is loaded.

const table = {
  zh: {
    heading: '{name} 对话助手',
    loading: '模型正在加载中,请稍候... 首次加载可能需要1-2分钟',
    loadingBytes: '模型正在加载中,请稍候... {percent}%（{done} / {total}）',
    failed: '模型加载失败: {error}',
    unreachable: '无法连接服务器，正在重试…',
    chatID: '会话ID: ',
    settings: '模型参数设置',
    maxTokens: '模型生成长度上限',
    rounds: '最大对话记忆轮数',
    welcomeScout: '您好!我是由MetaAI开发的Llama-4-Scout-17B-16E-Instruct。请问有什么我可以帮助您的?',
    welcome: '您好！我是 {name}。请问有什么我可以帮助您的？',
    welcomeDemo: '您好！我是 {name}，一个只有 2160 万参数的演示模型，采用 Llama 4 架构。我会回答首都、化学元素、简单计算、词语解释，也会讲小故事；其他问题请换用更大的模型。',
    placeholder: '在此输入您的问题...',
    send: '发送',
    stop: '停止',
    answering: '正在生成回答,请稍候...',
    clear: '清除对话历史',
    clearFailed: '清除历史失败: ',
    clearError: '清除历史时发生错误: ',
    error: '错误: ',
    happened: '发生错误: ',
    serverError: '服务器错误',
    unknownError: '未知错误',
    newChat: '新对话',
    untitled: '新对话',
    conversations: '会话列表',
    messages: '消息',
    rename: '重命名',
    remove: '删除',
    removeAsk: '删除会话“{title}”？此操作无法撤销。',
    copy: '复制',
    copied: '已复制',
    copyFailed: '复制失败',
    length: '达到生成长度上限',
    stop_requested: '已停止',
    interrupted: '回答被中断（服务器已重启）',
    reconnecting: '连接中断，正在重新连接…',
    lost: '回答未能完成，请重试。',
    openList: '打开会话列表',
    closeList: '关闭会话列表',
    toEnd: '回到最新消息',
    language: '语言',
    hint: 'Enter 发送 · Shift+Enter 换行 · Esc 停止',
    skip: '跳到输入框',
    you: '您',
    answered: '回答：{text}',
    assistant: '助手',
    edit: '编辑',
    cancel: '取消',
    regenerate: '重新生成',
    tryAgain: '重试',
    dismiss: '关闭',
    versions: '版本',
    versionBefore: '上一个版本',
    versionAfter: '下一个版本',
    versionShown: '第 {at} 个版本，共 {of} 个',
    tries: ['法国的首都是哪里？', '你是谁？', 'Count to 15.', 'Tell me a story about a fox.'],
  },
  en: {
    heading: 'Chat with {name}',
    loading: 'The model is loading, please wait... the first time may take 1-2 minutes',
    loadingBytes: 'The model is loading, please wait... {percent}% ({done} of {total})',
    failed: 'The model could not be loaded: {error}',
    unreachable: 'The server does not answer; trying again…',
    chatID: 'Conversation: ',
    settings: 'Model settings',
    maxTokens: 'Tokens of an answer at most',
    rounds: 'Rounds remembered',
    welcomeScout: 'Hello! I am Llama-4-Scout-17B-16E-Instruct, developed by Meta AI. How can I help you?',
    welcome: 'Hello! I am {name}. How can I help you?',
    welcomeDemo: 'Hello! I am {name}, a demonstration model of the Llama 4 architecture with only 21.6 million parameters. I know capitals, chemical elements, simple arithmetic and definitions, and tell little stories; for anything else, load a larger model.',
    placeholder: 'Type your question here...',
    send: 'Send',
    stop: 'Stop',
    answering: 'Generating the answer, please wait...',
    clear: 'Clear history',
    clearFailed: 'Could not clear the history: ',
    clearError: 'An error occurred while clearing the history: ',
    error: 'Error: ',
    happened: 'An error occurred: ',
    serverError: 'server error',
    unknownError: 'unknown error',
    newChat: 'New conversation',
    untitled: 'New conversation',
    conversations: 'Conversations',
    messages: 'Messages',
    rename: 'Rename',
    remove: 'Delete',
    removeAsk: 'Delete the conversation “{title}”? This cannot be undone.',
    copy: 'Copy',
    copied: 'Copied',
    copyFailed: 'Could not copy',
    length: 'Cut at the limit of tokens',
    stop_requested: 'Stopped',
    interrupted: 'Interrupted (the server was restarted)',
    reconnecting: 'The connection was lost; reconnecting…',
    lost: 'The answer could not be finished. Please try again.',
    openList: 'Open the list of conversations',
    closeList: 'Close the list of conversations',
    toEnd: 'To the newest message',
    language: 'Language',
    hint: 'Enter sends · Shift+Enter new line · Esc stops',
    skip: 'Skip to the input',
    you: 'You',
    answered: 'Answer: {text}',
    assistant: 'Assistant',
    edit: 'Edit',
    cancel: 'Cancel',
    regenerate: 'Regenerate',
    tryAgain: 'Try again',
    dismiss: 'Dismiss',
    versions: 'Versions',
    versionBefore: 'Version before',
    versionAfter: 'Version after',
    versionShown: 'Version {at} of {of}',
    tries: ['What is the capital of France?', 'Who are you?', 'Define llama.', 'Tell me a story about a fox.'],
  },
};

let current = choose();

// choose takes ?lang=, else what was chosen before. Chinese comes first: the page's users come from a Chinese tutorial.
function choose() {
  const asked = new URLSearchParams(location.search).get('lang') || stored();
  return asked && asked.toLowerCase().startsWith('en') ? 'en' : 'zh';
}

function stored() {
  try { return localStorage.getItem('chulengo.lang'); } catch { return null; }
}

export function language() { return current; }

export function setLanguage(lang) {
  current = lang in table ? lang : 'zh';
  try { localStorage.setItem('chulengo.lang', current); } catch { /* private mode: for this page only */ }
}

export function text(key, values = {}) {
  const raw = table[current][key];
  return typeof raw === 'string' ? raw.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '') : raw;
}

// apply writes the texts that the HTML names.
export function apply() {
  document.documentElement.lang = current === 'zh' ? 'zh-CN' : 'en';
  for (const e of document.querySelectorAll('[data-text]')) e.textContent = text(e.dataset.text);
  for (const e of document.querySelectorAll('[data-placeholder]')) e.placeholder = text(e.dataset.placeholder);
  for (const e of document.querySelectorAll('[data-label]')) {
    e.setAttribute('aria-label', text(e.dataset.label));
    if (e.tagName === 'BUTTON') e.title = text(e.dataset.label);
  }
  for (const b of document.querySelectorAll('[data-lang]')) b.setAttribute('aria-pressed', String(b.dataset.lang === current));
}
