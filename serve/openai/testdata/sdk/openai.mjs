// What OpenAI's own client for Node makes of the demo checkpoint's answers. The first argument is the server's address.
import assert from 'node:assert/strict'
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: process.argv[2] + '/v1', apiKey: 'none' })
const model = 'chulengo-demo'
const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: [{ type: 'text', text: 'What is the capital of France?' }] },
]
const ask = (fields) => ({ model, messages, temperature: 0, max_tokens: 30, ...fields })

const whole = await client.chat.completions.create(ask({ logprobs: true, top_logprobs: 2, n: 2, seed: 1 }))
const text = whole.choices[0].message.content
assert.ok(text.length > 0)
assert.equal(whole.choices.length, 2)
assert.equal(whole.choices[0].logprobs.content.map((t) => t.token).join(''), text)
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)

const stream = await client.chat.completions.create(ask({ stream: true, stream_options: { include_usage: true } }))
let streamed = '', usage
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? ''
  usage = chunk.usage ?? usage
}
assert.equal(streamed, text)
assert.equal(usage.prompt_tokens, whole.usage.prompt_tokens)

const runner = client.chat.completions.stream(ask({}))
assert.equal((await runner.finalChatCompletion()).choices[0].message.content, text)

const stopped = await client.chat.completions.create(ask({ stop: [text.split(' ')[2]] }))
assert.ok(text.startsWith(stopped.choices[0].message.content) && stopped.choices[0].finish_reason === 'stop')

const completion = await client.completions.create({ model, prompt: ['Once upon', 'A llama'], max_tokens: 4, logprobs: 1, echo: false })
assert.equal(completion.choices.length, 2)
assert.equal(completion.choices[1].logprobs.tokens.join(''), completion.choices[1].text)

assert.equal((await client.models.list()).data[0].id, model)
assert.equal((await client.models.retrieve(model)).id, model)

for (const [fields, kind, status, param, code] of [
  [{ temperature: -1 }, OpenAI.BadRequestError, 400, 'temperature', null],
  [{ model: 'gpt-4' }, OpenAI.NotFoundError, 404, 'model', 'model_not_found'],
  [{ max_tokens: 1e7 }, OpenAI.BadRequestError, 400, 'max_tokens', 'context_length_exceeded'],
  [{ max_tokens: 1e7, stream: true }, OpenAI.BadRequestError, 400, 'max_tokens', 'context_length_exceeded'],
]) {
  await assert.rejects(client.chat.completions.create(ask(fields)), (e) => {
    assert.ok(e instanceof kind, String(e))
    assert.deepEqual([e.status, e.param, e.code], [status, param, code])
    return true
  })
}

const abort = new AbortController()
let chunks = 0
for await (const _ of await client.chat.completions.create(ask({ stream: true, ignore_eos: true, max_tokens: 500 }), { signal: abort.signal })) {
  if (++chunks === 3) abort.abort()
}
assert.ok(chunks < 400, `${chunks} chunks after an abort at 3`)
console.log('ok')
