// What the scripts of this directory share: where to connect, and a check that says what went wrong.
import assert from 'node:assert/strict'

export const host = process.env.TEST_HOST
export const port = Number(process.env.TEST_PORT)
export const direct = process.env.TEST_DIRECT === '1'

export async function main(steps) {
  let current
  const timer = setTimeout(() => fail(new Error(`${current}: still not done after 60 s`)), 60_000)
  try {
    for (const [name, step] of Object.entries(steps)) {
      current = name
      try {
        await step()
      } catch (e) {
        e.message = `${name}: ${e.message}`
        throw e
      }
      console.log(`ok ${name}`)
    }
    clearTimeout(timer)
    process.exit(0)
  } catch (e) {
    fail(e)
  }
}

function fail(e) {
  console.error(e)
  process.exit(1)
}

export async function until(check, what) {
  for (let i = 0; i < 2000; i++) {
    if (await check()) return
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  assert.fail(`never: ${what}`)
}

// Until so many clients wait in blocking commands; `info` asks the server.
export const untilBlocked = (info, n) =>
  until(async () => (await info()).includes(`blocked_clients:${n}\r\n`), `${n} clients wait`)

export { assert }
