// What OpenAI's own client makes of the Responses API, with the demo checkpoint. The first argument is the server's address.
import assert from 'node:assert/strict'
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: process.argv[2] + '/v1', apiKey: 'none', maxRetries: 0 })
const model = 'chulengo-demo'
const ask = (fields) => ({ model, instructions: 'Be brief.', input: 'What is the capital of France?', temperature: 0, max_output_tokens: 60, store: false, ...fields })

// A text, whole and streamed.
const whole = await client.responses.create(ask())
assert.equal(whole.object, 'response')
assert.equal(whole.status, 'completed')
assert.ok(whole.output_text.length > 0)
assert.equal(whole.output[0].type, 'message')
assert.equal(whole.usage.total_tokens, whole.usage.input_tokens + whole.usage.output_tokens)

const kinds = []
let streamed = '', numbers = []
for await (const event of await client.responses.create(ask({ stream: true }))) {
  if (kinds.at(-1) !== event.type) kinds.push(event.type)
  numbers.push(event.sequence_number)
  if (event.type === 'response.output_text.delta') streamed += event.delta
  if (event.type === 'response.completed') assert.equal(event.response.output[0].content[0].text, whole.output_text)
}
assert.equal(streamed, whole.output_text)
assert.deepEqual(numbers, numbers.map((_, i) => i))
assert.deepEqual(kinds, ['response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
  'response.output_text.delta', 'response.output_text.done', 'response.content_part.done', 'response.output_item.done', 'response.completed'])
const final = await client.responses.stream(ask()).finalResponse()
assert.equal(final.output_text, whole.output_text)

const short = await client.responses.create(ask({ max_output_tokens: 2 }))
assert.deepEqual([short.status, short.incomplete_details.reason], ['incomplete', 'max_output_tokens'])

// The conversation is the client's: what came out goes in again.
const next = await client.responses.create(ask({ input: [{ role: 'user', content: 'What is the capital of France?' }, ...whole.output, { role: 'user', content: [{ type: 'input_text', text: 'And of Italy?' }] }] }))
assert.ok(next.output_text.length > 0 && next.usage.input_tokens > whole.usage.input_tokens)

// Tools.
const tools = [{ type: 'function', name: 'weather', strict: true, parameters: { type: 'object', required: ['city', 'days'], additionalProperties: false,
  properties: { city: { type: 'string', enum: ['Paris', 'Rome'] }, days: { type: 'integer', minimum: 1, maximum: 7 } } } }]
for (const tool_choice of ['required', { type: 'function', name: 'weather' }]) {
  const fields = { tools, tool_choice, parallel_tool_calls: false }
  const called = await client.responses.create(ask(fields))
  const [call, ...more] = called.output
  assert.equal(more.length, 0)
  assert.deepEqual([call.type, call.name, called.status], ['function_call', 'weather', 'completed'])
  const input = JSON.parse(call.arguments)
  assert.ok(['Paris', 'Rome'].includes(input.city) && input.days >= 1 && input.days <= 7)

  let pieces = ''
  const again = client.responses.stream(ask(fields))
  again.on('response.function_call_arguments.delta', (event) => { pieces += event.delta })
  assert.equal((await again.finalResponse()).output[0].arguments, call.arguments)
  assert.equal(pieces, call.arguments)

  const after = await client.responses.create(ask({ tools, max_output_tokens: 10,
    input: [{ role: 'user', content: 'What is the weather?' }, call, { type: 'function_call_output', call_id: call.call_id, output: 'sunny' }] }))
  assert.equal(after.object, 'response')
}

// Answers of a schema.
const format = { type: 'json_schema', name: 'weather', strict: true, schema: tools[0].parameters }
for (let i = 0; i < 5; i++) {
  const v = JSON.parse((await client.responses.create(ask({ text: { format }, temperature: 1.5 }))).output_text)
  assert.ok(['Paris', 'Rome'].includes(v.city) && v.days >= 1 && v.days <= 7)
}
const parsed = await client.responses.parse(ask({ text: { format } }))
assert.ok(JSON.parse(parsed.output_text).days >= 1)

// Nothing is kept here, and errors name their field.
for (const [fields, param] of [
  [{ store: true }, 'store'],
  [{ previous_response_id: 'resp_1' }, 'previous_response_id'],
  [{ temperature: -1 }, 'temperature'],
  [{ stream: true, temperature: -1 }, 'temperature'],
  [{ text: { format: { ...format, schema: { type: 'bad' } } } }, 'text.format.schema'],
]) {
  await assert.rejects(client.responses.create(ask(fields)), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError, String(e))
    assert.deepEqual([e.status, e.param], [400, param])
    return true
  })
}
console.log('ok')
