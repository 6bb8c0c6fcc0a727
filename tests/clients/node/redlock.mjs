// node-redlock, unchanged, over ioredis: three databases are the masters.
import Redis from 'ioredis'
import Redlock from 'redlock'
import { assert, host, port, main } from './common.mjs'

const masters = [0, 1, 2].map(db => new Redis({ host, port, db }))
const redlock = new Redlock(masters, { retryCount: 1000, retryDelay: 5, retryJitter: 5 })
const impatient = new Redlock(masters, { retryCount: 0 })

await main({
  'one holder at a time': async () => {
    let inside = 0
    let entered = 0
    await Promise.all(Array.from({ length: 10 }, async () => {
      const lock = await redlock.lock('printer', 30_000)
      assert.equal(++inside, 1)
      await masters[0].incr('prints')
      entered++
      inside--
      await lock.unlock()
    }))
    assert.equal(entered, 10)
    assert.equal(await masters[0].get('prints'), '10')
  },
  'a held lock is refused to others, extended and released by its holder': async () => {
    const lock = await redlock.lock(['printer', 'scanner'], 30_000)
    await assert.rejects(impatient.lock('scanner', 1000), /attempts to lock the resource/)
    const longer = await lock.extend(60_000)
    for (const master of masters) assert.ok(await master.pttl('printer') > 30_000)
    await longer.unlock()
    for (const master of masters) assert.equal(await master.exists('printer', 'scanner'), 0)
  },
  'a majority is enough, a minority is not': async () => {
    await masters[0].set('printer', 'somebody else')
    const lock = await impatient.lock('printer', 30_000)
    await masters[1].set('printer', 'somebody else')
    await assert.rejects(impatient.lock('printer', 30_000))
    await lock.unlock().catch(() => {})
    assert.equal(await masters[0].get('printer'), 'somebody else')
    assert.equal(await masters[2].exists('printer'), 0)
  },
})
